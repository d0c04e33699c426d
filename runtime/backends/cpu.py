"""Name of the processor, on which measured latencies depend."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_SOURCES = (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", ""))
"""x86 names its processor in the first, boards with Arm themselves in the second."""


@cache
def cpu_name() -> str:
    """Returns model, architecture and usable cores, as "AMD EPYC 9B45 (x86_64, 2 cores)".

    Source: proc(5); devicetree specification, "model".
    """
    cores = len(os.sched_getaffinity(0))
    return f"{_model()} ({platform.machine()}, {cores} core{'s' if cores > 1 else ''})"


def _model() -> str:
    for path, field in _SOURCES:
        try:
            lines = Path(path).read_text(errors="replace").replace("\0", "").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return " ".join(line.partition(":")[2].split() if field else line.split())
    return "CPU"
