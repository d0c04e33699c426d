"""Any sequence of calls, streams, refusals and shortages on one session: right answers, or our
error, and nothing left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from vit_edge.runtime.errors import EngineError

from .emulation import LEGACY
from .rig import FLAVOURS, Rig, make_rig
from .tiny import MAX_BATCH, tiny_frames, tiny_scores

SIZES = st.integers(1, MAX_BATCH)


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.rig: Rig | None = None
        self.streams: list[tuple[Iterator[np.ndarray], Iterator[np.ndarray]]] = []
        self.seed = 0

    @initialize(flavour=st.sampled_from(list(FLAVOURS)))
    def open(self, flavour: str) -> None:
        self.rig = make_rig(self.patch, flavour)
        self.session = self.rig.open()

    def frames(self, size: int) -> np.ndarray:
        self.seed += 1
        return tiny_frames(size, self.seed)

    def may_fail(self, work: Any, expected: np.ndarray) -> bool:
        try:
            scores = work()
        except EngineError:
            assert self.rig is not None
            assert self.rig.library.refuse or self.rig.gpu.fail_allocation is not None
            return False
        np.testing.assert_array_equal(scores, expected)
        return True

    @rule(size=SIZES)
    def run(self, size: int) -> None:
        frames = self.frames(size)
        self.may_fail(lambda: self.session.run(frames), tiny_scores(frames))

    @rule(size=SIZES, offset=st.sampled_from([0, 0, 16]), late=st.booleans())
    def run_on_gpu(self, size: int, offset: int, late: bool) -> None:
        assert self.rig is not None
        frames = self.frames(size)
        array = self.rig.array(frames, offset=offset, stream=LEGACY if late else None)
        self.may_fail(lambda: self.session.run(array), tiny_scores(frames))

    @precondition(lambda self: len(self.streams) < 3)
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=5))
    def start_stream(self, sizes: list[int]) -> None:
        batches = [self.frames(size) for size in sizes]
        self.streams.append((self.session.stream(batches), map(tiny_scores, batches)))

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 2))
    def next_answer(self, which: int) -> None:
        answers, expected = self.streams[which % len(self.streams)]
        wanted = next(expected, None)
        if wanted is None:
            assert next(answers, None) is None
        if wanted is None or not self.may_fail(lambda: next(answers), wanted):
            self.streams.remove((answers, expected))

    @precondition(lambda self: self.streams)
    @rule()
    def leave_stream(self) -> None:
        answers, _ = self.streams.pop()
        answers.close()  # type: ignore[attr-defined]

    @rule(method=st.sampled_from(["execute_async_v3", "capture", "set_tensor_address", ""]))
    def refuse(self, method: str) -> None:
        assert self.rig is not None
        self.rig.library.refuse.clear()
        if method:
            self.rig.library.refuse.add(method)

    @rule(allocations=st.sampled_from([None, 0, 1, 4]))
    def shorten_memory(self, allocations: int | None) -> None:
        assert self.rig is not None
        self.rig.gpu.fail_allocation = allocations

    def teardown(self) -> None:
        if self.rig is not None:
            self.session.close()
            self.streams.clear()  # the lane that one may have kept is freed now
            assert not (problems := self.rig.problems()), problems
        self.patch.undo()


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
