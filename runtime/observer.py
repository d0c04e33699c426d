"""Observers of an engine, which count its calls or watch its frames. Imported only if needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .outputs import OutputSpec, unpack

if TYPE_CHECKING:
    from .backends.base import Frames
    from .engine import EngineInfo

_log = logging.getLogger("vit_edge.runtime")


class Observer(Protocol):
    """Observer of an engine's calls. Its methods run in the thread of the call, before the call
    returns, so several may run at once. What they raise is logged, once for each engine, and breaks
    no call.
    """

    def on_call(
        self,
        info: EngineInfo,
        frames: Frames,
        outputs: Mapping[str, NDArray[np.float32]],
        seconds: float,
    ) -> None:
        """Receives a call, or an item of a stream, and its outputs.

        Args:
            info: What ran it.
            frames: uint8 `[N, height, width, channels]`, the caller's own memory: not to be changed
                or kept. A `DeviceArray` if they lie on a GPU.
            outputs: float32 `[N, *shape]` by name, likewise.
            seconds: Duration of the call; for an item of a stream the time from its arrival to its
                outputs, including waits for earlier items and for the stream's reader.
        """

    def on_error(self, info: EngineInfo, error: Exception) -> None:
        """Receives the exception of a call or a stream, before the caller does."""


class ObservedCalls:
    """Reports one engine's calls to an observer, whose own exceptions do not reach the calls."""

    def __init__(self, observer: Observer, info: EngineInfo, outputs: Sequence[OutputSpec]) -> None:
        self._observer, self._info, self._outputs = observer, info, outputs
        self._failed = False

    def call(self, run: Callable[[], tuple[Frames, NDArray[np.float32]]]) -> NDArray[np.float32]:
        """Runs and reports a call that returns frames and packed outputs; returns the outputs."""
        start = time.perf_counter()
        try:
            frames, packed = run()
        except Exception as error:
            self._tell(self._observer.on_error, error)
            raise
        self.answered(frames, packed, start)
        return packed

    def stream(self, answers: Iterable[Any]) -> Iterator[Any]:
        """Yields what a stream yields, and reports what it raises."""
        try:
            yield from answers
        except Exception as error:
            self._tell(self._observer.on_error, error)
            raise

    def answered(self, frames: Frames, packed: NDArray[np.float32], start: float) -> None:
        """Reports frames that arrived at `start` and whose packed outputs are ready now."""
        seconds = time.perf_counter() - start
        self._tell(self._observer.on_call, frames, unpack(packed, self._outputs), seconds)

    def _tell(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(self._info, *arguments)
        except Exception:
            if not self._failed:
                self._failed = True
                name = type(self._observer).__name__
                _log.exception("the observer %s failed; this is logged once, calls go on", name)
