"""A build that tells its progress and can be stopped.

Source: TensorRT Python API (IProgressMonitor).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .base import Progress


class Watch:
    """Follows a build. The library calls it from any thread, and swallows what it raises."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._error: BaseException | None = None

    def stop(self) -> None:
        """The build ends at its next step."""
        self._stopped = True

    def check(self) -> None:
        """Raises what telling the progress raised, if it did."""
        if self._error is not None:
            raise self._error

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        if parent is None:  # phases nest; the outermost one is shown
            with self._lock:
                self._steps[phase] = steps
            self._tell(phase, 0, steps)

    def advanced(self, phase: str, done: int) -> bool:
        """Whether the build shall go on."""
        steps = self._steps.get(phase)
        if steps is not None:
            self._tell(phase, done, steps)
        return not self._stopped

    def finished(self, phase: str) -> None:
        with self._lock:
            steps = self._steps.pop(phase, None)
        if steps is not None and not self._stopped:
            self._tell(phase, steps, steps)

    def _tell(self, phase: str, done: int, steps: int) -> None:
        if self._progress is None or self._stopped:
            return
        try:
            self._progress(phase, done, steps)
        except BaseException as error:  # it cannot pass through the library
            self._error = error
            self._stopped = True


def progress_monitor(library: Any, watch: Watch) -> Any:
    """`watch` as the library calls it."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.advanced(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            watch.finished(phase_name)

    return Monitor()


def run_watched(build: Callable[[Watch], bytes], progress: Progress | None) -> bytes:
    """Runs `build` in a thread of its own: native code does not see Ctrl-C, the caller's thread
    does, and stops the build.

    Raises:
        Whatever `build` or `progress` raises, when the build has ended.
    """
    from concurrent.futures import ThreadPoolExecutor

    watch = Watch(progress)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vit-edge-build") as pool:
        future = pool.submit(build, watch)
        try:
            plan = future.result()
        except BaseException:
            watch.stop()
            watch.check()
            raise
    watch.check()
    return plan
