"""Batches of frames, decoded by threads ahead of the model: Pillow lets other threads run while it
decodes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

_AHEAD = 2
_WORKERS = min(8, os.cpu_count() or 1)


def load_batches(
    batches: Iterable[NDArray[np.int64]], read: Callable[[int], Frame]
) -> Generator[tuple[NDArray[np.int64], NDArray[np.uint8]], None, None]:
    """Yields each batch of positions with its frames, uint8 `[n, height, width, channels]`.

    At most two batches are decoded ahead, so memory does not grow with the folder. `read` is called
    from several threads; its errors are raised here.
    """
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode")

    def submit(positions: NDArray[np.int64]) -> list[Future[Frame]]:
        return [pool.submit(read, int(position)) for position in positions]

    rest = iter(batches)
    try:
        waiting = deque((positions, submit(positions)) for positions in islice(rest, _AHEAD))
        while waiting:
            positions, futures = waiting.popleft()
            frames = np.stack([future.result() for future in futures])
            waiting.extend((following, submit(following)) for following in islice(rest, 1))
            yield positions, frames
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
