"""Tells the progress of a build.

Source: TensorRT Python API (IProgressMonitor).
"""

from __future__ import annotations

import threading
from typing import Any

from ..base import Progress


class OutermostPhases:
    """Tells the phases that are part of no other. The library calls it from any thread."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        if parent is None:
            with self._lock:
                self._steps[phase] = steps
            self._progress(phase, 0, steps)

    def advanced(self, phase: str, done: int) -> None:
        steps = self._steps.get(phase)
        if steps is not None:
            self._progress(phase, done, steps)

    def finished(self, phase: str) -> None:
        with self._lock:
            steps = self._steps.pop(phase, None)
        if steps is not None:
            self._progress(phase, steps, steps)


def progress_monitor(library: Any, phases: OutermostPhases) -> Any:
    """`phases` as the library calls it."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.advanced(phase_name, step + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finished(phase_name)

    return Monitor()
