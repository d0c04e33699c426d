"""The engine tells its observer of every call, and an observer can break none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime import ClosedError, Engine, EngineInfo, InputError

BACKENDS = ("onnxruntime", "openvino")


class Notes:
    """Observer that writes down what it sees."""

    def __init__(self) -> None:
        self.calls: list[tuple[EngineInfo, np.ndarray, dict[str, np.ndarray], float]] = []
        self.errors: list[Exception] = []

    def on_call(
        self, info: EngineInfo, frames: Any, outputs: Mapping[str, Any], seconds: float
    ) -> None:
        copies = {name: values.copy() for name, values in outputs.items()}
        self.calls.append((info, frames.copy(), copies, seconds))

    def on_error(self, info: EngineInfo, error: Exception) -> None:
        self.errors.append(error)


class Broken:
    def __init__(self) -> None:
        self.seen = 0

    def on_call(self, *arguments: Any) -> None:
        self.seen += 1
        raise RuntimeError("the metrics' disk is full")

    def on_error(self, *arguments: Any) -> None:
        self.seen += 1
        raise RuntimeError("the metrics' disk is full")


@pytest.fixture(params=BACKENDS)
def load(bundle_source: Path, request: pytest.FixtureRequest) -> Callable[[Any], Engine]:
    return lambda observer: Engine.load(bundle_source, "fp32", request.param, observer=observer)


def test_a_call_is_seen_once_with_what_it_took_and_gave(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    """Also where it is cut into batches: the profile ends at 4 here."""
    notes = Notes()
    with load(notes) as engine:
        scores = [engine(digit_frames[:1]), engine(digit_frames)]
        assert [call[0] for call in notes.calls] == [engine.info] * 2
    for (_, frames, outputs, seconds), own, count in zip(notes.calls, scores, (1, 10), strict=True):
        np.testing.assert_array_equal(frames, digit_frames[:count])
        np.testing.assert_array_equal(outputs["logits"], own)
        assert seconds > 0
    assert notes.errors == []


def test_items_of_a_stream_are_seen_in_order(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    notes = Notes()
    items = [digit_frames[0], digit_frames[1:3], digit_frames, digit_frames[3]]
    with load(notes) as engine:
        answers = list(engine.stream(iter(items)))
    assert [len(frames) for _, frames, _, _ in notes.calls] == [1, 2, 10, 1]
    for (_, frames, outputs, seconds), item, answer in zip(
        notes.calls, items, answers, strict=True
    ):
        np.testing.assert_array_equal(frames, item.reshape(-1, 8, 8, 1))
        np.testing.assert_array_equal(outputs["logits"].reshape(answer.shape), answer)
        assert seconds > 0


def test_errors_of_calls_and_streams_are_seen_and_raised(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    notes = Notes()

    def camera() -> Iterator[np.ndarray]:
        yield digit_frames[0]
        raise TimeoutError("the camera went away")

    with load(notes) as engine:
        with pytest.raises(InputError):
            engine(digit_frames[0])
        with pytest.raises(TimeoutError):
            list(engine.stream(camera()))
        with pytest.raises(InputError):
            list(engine.stream([digit_frames[0].astype(float)]))
    with pytest.raises(ClosedError):
        engine(digit_frames)
    assert [type(error) for error in notes.errors] == [
        InputError,
        TimeoutError,
        InputError,
        ClosedError,
    ]
    assert len(notes.calls) == 1  # the frame before the camera went away


def test_a_stream_that_is_left_is_no_error(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    notes = Notes()
    with load(notes) as engine:
        answers = engine.stream(iter([digit_frames[0]] * 5))
        next(answers)
        answers.close()
    assert (len(notes.calls), notes.errors) == (1, [])


def test_an_observers_exception_breaks_no_call_and_is_logged_once(
    load: Callable[[Any], Engine], digit_frames: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    with caplog.at_level(logging.ERROR, "vit_edge.runtime"), load(broken) as engine:
        for _ in range(3):
            assert engine(digit_frames[:2]).shape == (2, 10)
        assert len(list(engine.stream([digit_frames[0]] * 2))) == 2
        with pytest.raises(InputError, match="float64"):  # its own error, not the observer's
            engine(digit_frames.astype(float))
    assert broken.seen == 6
    (record,) = caplog.records
    assert "Broken" in record.getMessage()
    assert "disk is full" in caplog.text


def test_interrupting_an_observer_interrupts_the_call(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    class Interrupted(Notes):
        def on_call(self, *arguments: Any) -> None:
            raise KeyboardInterrupt

    with load(Interrupted()) as engine, pytest.raises(KeyboardInterrupt):
        engine(digit_frames[:1])


def test_calls_of_many_threads_are_all_seen(
    load: Callable[[Any], Engine], digit_frames: np.ndarray
) -> None:
    notes = Notes()  # appending to a list is atomic
    with load(notes) as engine:

        def work(count: int) -> None:
            for _ in range(25):
                engine(digit_frames[:count])

        threads = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = engine(digit_frames[:4])
    assert sorted(len(call[1]) for call in notes.calls[:-1]) == sorted([1, 2, 3, 4] * 25)
    for _, frames, outputs, _ in notes.calls:
        np.testing.assert_allclose(outputs["logits"], expected[: len(frames)], atol=1e-5)


def test_without_an_observer_nothing_of_it_is_imported(bundle_source: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nimport numpy as np\nfrom vit_edge import Engine\n"
        "with Engine.load(sys.argv[1], 'fp32', 'onnxruntime') as engine:\n"
        "    engine(np.zeros((1, 8, 8, 1), np.uint8))\n"
        "print([m for m in sys.modules if m.endswith('observer') or 'health' in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_source)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
