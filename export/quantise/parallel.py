"""Work on several sites at once, each on cores of its own.

A site's matrices are too small to keep all cores busy for long, and between products numpy uses one
core only: on 2 cores, two sites at a time take two thirds of what one after the other takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

MOST = 4
"""At once: for a ViT-L each may take half a gigabyte."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(compute: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yields `compute(item)` for each item, in their order; what `compute` raises is raised here.

    `compute` must change nothing that another item's needs.
    """
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(MOST, cores, len(items)))
    limits = threadpool_limits(max(1, cores // workers), user_api="blas")
    with limits, ThreadPoolExecutor(workers, thread_name_prefix="vit-edge-site") as pool:
        yield from pool.map(compute, items)
