"""Pool of items that one thread at a time can use, and a stream that runs in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ClosedError
from .base import Frames

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

IN_FLIGHT = 2
"""Batches of a stream that may be under way: one computes while the next is fetched. More would
only add latency."""


class Pool(Generic[T]):
    """Lends items to threads, which wait while none is free. Thread-safe."""

    def __init__(self, items: list[T]) -> None:
        self._free, self._count = list(items), len(items)
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Lends an item for the time of the block. Raises ClosedError once the pool is closed."""
        with self._changed:
            while not self._free and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ClosedError
            item = self._free.pop()
        try:
            yield item
        finally:
            with self._changed:
                self._free.append(item)
                self._changed.notify()

    def close(self, free: Callable[[T], None]) -> None:
        """Stops lending, waits for the items that are lent, and frees each item once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._free) < self._count:
                self._changed.wait()
            items, self._free, self._count = self._free, [], 0
        for item in items:
            free(item)


def stream_in_thread(
    run: Callable[[Frames], NDArray[np.float32]], batches: Iterable[Frames]
) -> Iterator[NDArray[np.float32]]:
    """Runs batches in order in a worker thread, while the caller's thread fetches the next one:
    reads a camera, decodes, resizes.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vit-edge-stream") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(run, batch))
                if len(waiting) >= IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the reader may leave early
            for future in waiting:
                future.cancel()
