"""Batches of images, decoded by threads ahead of the model: Pillow lets other threads run while it
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

Image = NDArray[np.uint8]

_AHEAD = 2
_WORKERS = min(8, os.cpu_count() or 1)


def load_batches(
    batches: Iterable[NDArray[np.int64]], read: Callable[[int], Image]
) -> Generator[tuple[NDArray[np.int64], Image], None, None]:
    """Yields each batch of positions with its images, uint8 `[n, height, width, channels]`.

    At most two batches are decoded ahead, so memory does not grow with the folder. `read` is called
    from several threads; what it raises is raised here.
    """
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode")
    submit: Callable[[NDArray[np.int64]], list[Future[Image]]] = lambda positions: [  # noqa: E731
        pool.submit(read, int(position)) for position in positions
    ]
    rest = iter(batches)
    try:
        waiting = deque((chosen, submit(chosen)) for chosen in islice(rest, _AHEAD))
        while waiting:
            chosen, futures = waiting.popleft()
            images = np.stack([future.result() for future in futures])
            waiting.extend((new, submit(new)) for new in islice(rest, 1))
            yield chosen, images
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
