"""The machine in words, as far as latencies depend on it."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vit_edge.runtime.backends.cpu import cpu_name

from ..environments import PEERS
from .contenders import CORE, Contender

LIBRARIES = ("torch", "onnxruntime", "openvino", "onnx", "numpy")
FLAGS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""Instructions that matrix products use, as Linux names them."""
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def describe(threads: int, contenders: tuple[Contender, ...]) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "flags": [flag for flag in FLAGS if flag in _cpu_flags()],
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load": load(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "environments": {
            name: (PEERS / f"{name}.txt").read_text().split()
            for name in sorted(_environments(contenders))
        },
    }


def load() -> list[float]:
    """Returns the load averages over 1, 5 and 15 minutes, which show other work."""
    return [round(value, 2) for value in os.getloadavg()]


def physical_cores() -> int:
    """Counts the physical cores that this process may use, the number of threads of every library.

    Source: sysfs, cpu topology; where it tells nothing each processor counts.
    """
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line for line in lines if line.startswith(("flags", "Features")))
    return set(next(named, "").partition(":")[2].split())


def _environments(contenders: tuple[Contender, ...]) -> set[str]:
    used = {c.environment for c in contenders}
    return (used | {c.entrant.environment for c in contenders if c.entrant}) - {CORE}
