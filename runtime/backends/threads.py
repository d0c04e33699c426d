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
R = TypeVar("R")

IN_FLIGHT = 2
"""Batches of a stream that may be under way: one computes while the next is fetched. More would
only add latency."""


class LendingPool(Generic[T]):
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


def map_ahead(
    run: Callable[[T], R], items: Iterable[T], threads: int, ahead: int, name: str
) -> Iterator[R]:
    """Yields `run(item)` for each item, in their order, run by threads while the caller's thread
    fetches the next one.

    Args:
        run: Called in the threads; what it raises is raised here.
        items: Fetched in the caller's thread.
        threads: Number of threads.
        ahead: Most items that run or wait before their results are requested: bounds memory.
        name: Prefix of the threads' names.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the reader may leave early
            for future in waiting:
                future.cancel()


def stream_in_thread(
    run: Callable[[Frames], NDArray[np.float32]], batches: Iterable[Frames]
) -> Iterator[NDArray[np.float32]]:
    """Runs batches in order in a worker thread, while the caller's thread fetches the next one,
    which may mean to read a camera, decode and resize.
    """
    return map_ahead(run, batches, 1, IN_FLIGHT, "vit-edge-stream")
