"""Events around what is queued, with a recorder in the place of the CUDA runtime."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vit_edge.runtime.backends import cuda
from vit_edge.runtime.errors import EngineError


class Recorder:
    """Answers as `cuda.bindings.runtime` does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.alive: list[int] = []
        self.status = 0

    def cudaEventCreate(self) -> tuple[int, int]:  # noqa: N802
        self.alive.append(len(self.calls) + 100)
        return 0, self.alive[-1]

    def cudaEventRecord(self, event: int, stream: int) -> tuple[object]:  # noqa: N802
        self.calls.append(("record", event, stream))
        return (self.status or 0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:  # noqa: N802
        self.calls.append(("elapsed", start, end))
        return 0, 1.5

    def cudaEventDestroy(self, event: int) -> tuple[int]:  # noqa: N802
        self.alive.remove(event)
        return (0,)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(cuda, "_runtime", lambda: found)
    return found


def test_the_events_are_recorded_around_the_work(recorder: Recorder) -> None:
    timer = cuda.Timer(SimpleNamespace(handle=7))  # type: ignore[arg-type]
    with timer:
        recorder.calls.append(("work",))
    assert timer.milliseconds() == 1.5
    first, work, last, elapsed = recorder.calls
    assert (first[0], work, last[0]) == ("record", ("work",), "record")
    assert first[2] == last[2] == 7
    assert elapsed == ("elapsed", first[1], last[1])
    timer.close()
    assert recorder.alive == []


def test_no_event_is_lost_where_the_work_fails(recorder: Recorder) -> None:
    timer = cuda.Timer(SimpleNamespace(handle=7))  # type: ignore[arg-type]
    with pytest.raises(EngineError), timer:
        raise EngineError("the queue is full")
    timer.close()
    assert recorder.alive == []
