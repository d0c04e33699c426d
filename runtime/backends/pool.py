"""A pool of whatever one thread at a time can use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from ..errors import ClosedError

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends items to threads; those who find none wait. Thread-safe."""

    def __init__(self, items: list[T]) -> None:
        self._free, self._count = list(items), len(items)
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[T]:
        """An item for the time of the block. Raises ClosedError once the pool is closed."""
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
        """Lends no more, waits for what is lent, and frees each item once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._free) < self._count:
                self._changed.wait()
            items, self._free, self._count = self._free, [], 0
        for item in items:
            free(item)
