"""Memory between stages: graphs are cycles of objects, which Python lets go of when it sees fit."""

from __future__ import annotations

import gc
import os
import sys

from vit_edge.runtime.backends.base import give_back_freed

_GROWTH = 512 << 20
"""Bytes more than after the last time, from which on it is worth looking: what is given back and
asked for again costs time, 9 of 55 s of a ViT-S's export where it was done for each 200 MB.
"""


class Memory:
    """Gives back what nobody needs any more, where this process has grown.

    Python's collector counts objects and not bytes: the graph of a stage that is over, with all its
    weights, stays until so many objects were made. Ten stages of a ViT-B left three gigabytes.
    """

    def __init__(self) -> None:
        self._least = resident_bytes()

    def give_back(self) -> None:
        """Collects garbage if the process has grown since the last time."""
        now = resident_bytes()
        if now - self._least > _GROWTH:
            gc.collect()
            give_back_freed()
            self._least = resident_bytes()
        else:
            self._least = min(self._least, now)


def resident_bytes() -> int:
    """The resident memory of this process; 0 where the system does not tell.

    Source: proc_pid_statm(5).
    """
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
