"""Runs batches in order while the next ones are fetched."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .base import Frames

if TYPE_CHECKING:
    from concurrent.futures import Future

IN_FLIGHT = 2
"""One batch computes while the next is fetched; more only adds latency."""


def stream_in_thread(
    run: Callable[[Frames], NDArray[np.float32]], batches: Iterable[Frames]
) -> Iterator[NDArray[np.float32]]:
    """Answers each batch, in order, from one worker thread: the caller's thread fetches the next
    batch (reads a camera, decodes, resizes) meanwhile.
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
