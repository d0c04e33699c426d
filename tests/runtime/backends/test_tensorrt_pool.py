"""Threads, streams and closing: the lanes of the TensorRT session on an emulated GPU."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime.backends.tensorrt import lanes
from vit_edge.runtime.backends.tensorrt.lanes import LANES, MAX_LANES
from vit_edge.runtime.errors import ClosedError, EngineError

from ...concurrency import wrong_answers
from .rig import Rig
from .tiny import tiny_frames, tiny_scores

ROOT = Path(__file__).parents[3]
PATIENCE = 20
"""Seconds until a thread counts as hanging."""


def within_patience(work: Callable[[], object]) -> None:
    """Runs `work` in a thread; fails if it hangs, and with what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


class TestThreads:
    def test_each_gets_its_own_answers(self, rig: Rig) -> None:
        session, frames = rig.open(), tiny_frames(8)
        wrong: list[int] = []

        def work() -> None:
            wrong.extend(wrong_answers(session.run, frames, tiny_scores(frames), 50))

        within_patience(work)
        assert wrong == []
        assert rig.kinds("stream") <= LANES
        session.close()

    def test_a_second_lane_comes_when_the_first_is_busy(self, rig: Rig) -> None:
        session = rig.open()
        for _ in range(3):
            session.run(tiny_frames(1))
        assert rig.kinds("stream") == 1
        list(session.stream([tiny_frames(1)] * 3))
        assert rig.kinds("stream") == 2
        session.close()

    def test_one_lane_will_do_where_memory_is_short(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        session = rig.open()
        batches = [tiny_frames(1, seed) for seed in range(6)]
        rig.gpu.fail_allocation = 3
        with caplog.at_level(logging.WARNING):
            within_patience(lambda: check_stream(session.stream(batches), batches))
        assert [text for text in caplog.messages if "going on with 1 lane" in text]
        rig.gpu.fail_allocation = None
        within_patience(lambda: check_stream(session.stream(batches), batches))
        assert rig.kinds("stream") == 1  # it is not tried again and again
        session.close()


def check_stream(answers: Iterator[np.ndarray], batches: list[np.ndarray]) -> None:
    for answer, batch in zip(answers, batches, strict=True):
        np.testing.assert_array_equal(answer, tiny_scores(batch))


class TestStream:
    def test_answers_come_in_order_for_any_sizes(self, rig: Rig) -> None:
        session = rig.open()
        batches = [tiny_frames(1 + seed % 3, seed) for seed in range(20)]
        check_stream(session.stream(batches), batches)
        assert list(session.stream([])) == []
        session.close()

    def test_the_next_batch_is_queued_before_the_last_one_is_waited_for(self, rig: Rig) -> None:
        session = rig.open()
        list(session.stream(tiny_frames(1, seed) for seed in range(6)))
        steps = [name for name in rig.gpu.trace if name in ("execute", "synchronize")]
        assert steps == ["execute", *["execute", "synchronize"] * 5, "synchronize"]
        session.close()

    def test_the_source_is_read_no_further_than_needed(self, rig: Rig) -> None:
        session, read = rig.open(), itertools.count()
        answers = session.stream(tiny_frames(1, next(read)) for _ in range(100))
        for answered in range(1, 5):
            next(answers)
            assert read.__reduce__()[1][0] == answered + 1
        answers.close()
        session.close()

    def test_a_reader_may_leave_early(self, rig: Rig) -> None:
        session = rig.open()
        for _ in range(4):
            answers = session.stream(tiny_frames(1, seed) for seed in range(9))
            next(answers)
            answers.close()
        np.testing.assert_array_equal(session.run(tiny_frames(2)), tiny_scores(tiny_frames(2)))
        session.close()

    def test_what_the_source_raises_comes_through(self, rig: Rig) -> None:
        session = rig.open()

        def source() -> Iterator[np.ndarray]:
            yield from (tiny_frames(1), tiny_frames(2))
            raise OSError("the camera is gone")

        for _ in range(3):
            with pytest.raises(OSError, match="camera"):
                list(session.stream(source()))
        within_patience(lambda: session.run(tiny_frames(1)))
        session.close()

    def test_a_batch_that_fails_ends_the_stream_alone(self, rig: Rig) -> None:
        session = rig.open()
        answers = session.stream([tiny_frames(1), tiny_frames(9), tiny_frames(1)])
        with pytest.raises(EngineError, match="profile"):
            list(answers)
        within_patience(lambda: session.run(tiny_frames(1)))
        session.close()

    def test_readers_that_pause_block_nobody(self, rig: Rig) -> None:
        """Three paused streams want all lanes there are; a call in between gets one, and they all
        get their answers in the end.
        """
        session = rig.open()
        batches = [tiny_frames(1, seed) for seed in range(5)]

        def work() -> None:
            streams = [session.stream(batches) for _ in range(3)]
            for batch in batches:
                for answers in streams:
                    np.testing.assert_array_equal(next(answers), tiny_scores(batch))
                    np.testing.assert_array_equal(session.run(batch), tiny_scores(batch))

        within_patience(work)
        session.close()

    def test_nothing_is_allocated_once_streams_are_warm(self, rig: Rig) -> None:
        session = rig.open()
        batches = [tiny_frames(1, seed) for seed in range(6)]
        for _ in range(2):
            check_stream(session.stream(batches), batches)
        before = rig.gpu.allocations
        for _ in range(3):
            check_stream(session.stream(batches), batches)
        assert rig.gpu.allocations == before
        session.close()

    def test_streams_side_by_side_get_lanes_of_their_own_up_to_a_limit(self, rig: Rig) -> None:
        session, batches = rig.open(), [tiny_frames(1, seed) for seed in range(3)]
        for count in range(1, 6):
            streams = [session.stream(batches) for _ in range(count)]
            for answers in zip(*streams, strict=True):
                assert len(answers) == count
            assert rig.kinds("stream") == min(1 + count, MAX_LANES)
        session.close()

    def test_calls_of_many_threads_pass_a_paused_stream(self, rig: Rig) -> None:
        session, frames = rig.open(), tiny_frames(8)
        batches = [tiny_frames(1, seed) for seed in range(3)]
        answers = session.stream(batches)
        first, wrong = next(answers), list[int]()
        within_patience(
            lambda: wrong.extend(wrong_answers(session.run, frames, tiny_scores(frames), 20))
        )
        assert wrong == []
        check_stream(itertools.chain([first], answers), batches)
        session.close()

    def test_streams_and_calls_in_many_threads(self, rig: Rig) -> None:
        session = rig.open()

        def stream(seed: int) -> None:
            batches = [tiny_frames(1 + seed % 4, seed + i) for i in range(20)]
            check_stream(session.stream(batches), batches)

        def call(seed: int) -> None:
            for i in range(20):
                frames = tiny_frames(1 + i % 4, seed + i)
                np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))

        def work() -> None:
            with ThreadPoolExecutor(8) as pool:
                jobs = [pool.submit((stream, call)[i % 2], i) for i in range(8)]
                for job in jobs:
                    job.result()

        within_patience(work)
        session.close()


class TestClose:
    def test_calls_afterwards_are_one_error(self, rig: Rig) -> None:
        session = rig.open()
        session.run(tiny_frames(1))
        session.close()
        session.close()
        assert len(rig.gpu.contexts) == len(rig.gpu.engines) == 0
        with pytest.raises(ClosedError):
            session.run(tiny_frames(1))
        with pytest.raises(ClosedError):
            next(session.stream([tiny_frames(1)]))

    def test_running_calls_are_answered_and_later_ones_refused(self, rig: Rig) -> None:
        session, started = rig.open(), threading.Barrier(9)
        frames, answers = tiny_frames(2), list[bool]()

        def work() -> None:
            started.wait()
            while True:
                answers.append(bool((session.run(frames) == tiny_scores(frames)).all()))

        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(work) for _ in range(8)]
            started.wait()
            while len(answers) < 50:
                pass
            within_patience(session.close)
            for job in jobs:
                assert isinstance(job.exception(PATIENCE), ClosedError)
        assert all(answers)

    def test_a_paused_stream_gets_what_was_queued_and_then_the_error(self, rig: Rig) -> None:
        session = rig.open()
        batches = [tiny_frames(1, seed) for seed in range(5)]
        answers = session.stream(batches)
        next(answers)
        within_patience(session.close)
        np.testing.assert_array_equal(next(answers), tiny_scores(batches[1]))
        with pytest.raises(ClosedError):
            next(answers)
        assert rig.gpu.problems() == []  # its lane is freed

    def test_a_paused_stream_that_nobody_reads_on_is_freed(self, rig: Rig) -> None:
        """By the garbage collector, in whatever thread that runs."""
        session = rig.open()
        answers = [session.stream([tiny_frames(1, seed) for seed in range(5)])]
        next(answers[0])
        within_patience(session.close)
        within_patience(answers.clear)
        assert rig.gpu.problems() == []

    def test_it_waits_for_a_lane_in_the_making(
        self, full: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second lane is being allocated while the session is closed."""
        session = full.open()
        started, go = threading.Event(), threading.Event()

        class SlowLane(lanes.Lane):
            def __init__(self, *arguments: Any) -> None:
                started.set()
                go.wait(PATIENCE)
                super().__init__(*arguments)

        monkeypatch.setattr(lanes, "Lane", SlowLane)
        with ThreadPoolExecutor(2) as threads:
            streaming = threads.submit(lambda: list(session.stream([tiny_frames(1)] * 2)))
            started.wait(PATIENCE)
            closing = threads.submit(session.close)
            go.set()
            closing.result(PATIENCE)
            assert isinstance(streaming.exception(PATIENCE), (ClosedError, type(None)))


_PAUSED = """
import threading, pytest
from tests.runtime.backends.rig import make_rig
from tests.runtime.backends.tiny import tiny_frames

rig = make_rig(pytest.MonkeyPatch(), "11")
session = rig.open()
answers = session.stream([tiny_frames(1)] * 5)
next(answers)
thread = threading.Thread(target=session._pool._changed.acquire)
thread.start()
thread.join()
"""


def test_a_process_may_end_beside_a_paused_stream() -> None:
    """Even where a thread that is no more has taken the pool's lock."""
    done = subprocess.run(
        [sys.executable, "-c", _PAUSED], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
