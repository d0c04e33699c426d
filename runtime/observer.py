"""Observers of an engine: what counts its calls, or watches its images. Imported where there is one
alone.
"""

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
    """Sees what an engine does. Its methods run in the thread of the call, before that returns:
    several may run at once. What they raise is logged, once for each engine, and breaks no call.
    """

    def on_call(
        self,
        info: EngineInfo,
        frames: Frames,
        outputs: Mapping[str, NDArray[np.float32]],
        seconds: float,
    ) -> None:
        """Sees a call, or an item of a stream, that is answered.

        Args:
            info: What ran it.
            frames: uint8 `[N, height, width, channels]`, the caller's own memory: not to be changed
                or kept. A `DeviceArray` where they lie on a GPU.
            outputs: float32 `[N, *shape]` by name, likewise.
            seconds: How long the call took; of an item of a stream from its coming to its outputs,
                with what it waited for those before it and for the stream's reader.
        """

    def on_error(self, info: EngineInfo, error: Exception) -> None:
        """Sees what a call or a stream raises, before its caller does."""


class ObservedCalls:
    """Tells an observer of one engine's calls, and keeps its exceptions from them."""

    def __init__(self, observer: Observer, info: EngineInfo, outputs: Sequence[OutputSpec]) -> None:
        self._observer, self._info, self._outputs = observer, info, outputs
        self._failed = False

    def call(self, run: Callable[[], tuple[Frames, NDArray[np.float32]]]) -> NDArray[np.float32]:
        """Runs a call that gives its frames and its packed outputs; returns the outputs."""
        start = time.perf_counter()
        try:
            frames, packed = run()
        except Exception as error:
            self._tell(self._observer.on_error, error)
            raise
        self.answered(frames, packed, start)
        return packed

    def stream(self, answers: Iterable[Any]) -> Iterator[Any]:
        """Yields what a stream does, and tells what it raises."""
        try:
            yield from answers
        except Exception as error:
            self._tell(self._observer.on_error, error)
            raise

    def answered(self, frames: Frames, packed: NDArray[np.float32], start: float) -> None:
        """Tells of frames whose packed outputs are there, as of now; they came at `start`."""
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
