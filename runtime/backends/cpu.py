"""The processor, and how much of it this process may use."""

from __future__ import annotations

import logging
import os
import platform
from functools import cache
from math import ceil
from pathlib import Path

from ..container import cpu_quota

_log = logging.getLogger("vit_edge.runtime")
_SOURCES = (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", ""))
"""x86 names its processor in the first, boards with Arm themselves in the second."""
_TOPOLOGY = Path("/sys/devices/system/cpu")
_FLAGS = ("flags", "Features")
"""Fields of /proc/cpuinfo that list instruction sets, on x86 and Arm."""
_INSTRUCTIONS = (
    "avx", "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
"""Those that matter to matrix products, as the kernel writes them."""


@cache
def cpu_name() -> str:
    """Returns model, architecture, usable cores and a container's quota, as "AMD EPYC 9B45 (x86_64,
    2 cores)" or "AMD EPYC 9B45 (x86_64, 2 cores, quota 1.5)": latencies depend on them.

    Source: proc(5); devicetree specification, "model".
    """
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    limit = "" if quota is None or quota >= cores else f", quota {quota:g}"
    return f"{_model()} ({platform.machine()}, {cores} core{'s' if cores > 1 else ''}{limit})"


def _model() -> str:
    for path, field in _SOURCES:
        for line in _lines(path):
            if line.startswith(field):
                return " ".join(line.partition(":")[2].split() if field else line.split())
    return "CPU"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").replace("\0", "").splitlines()
    except OSError:
        return []


@cache
def instruction_sets() -> tuple[str, ...]:
    """Returns the names of the processor's instruction sets that matter to matrix products."""
    for line in _lines(_SOURCES[0][0]):
        field, _, names = line.partition(":")
        if field.strip() in _FLAGS:
            there = set(names.split())
            return tuple(name for name in _INSTRUCTIONS if name in there)
    return ()


def is_limited() -> bool:
    """Tells whether this process may use less than the whole machine: by its affinity (taskset, a
    cpuset) or by a quota.
    """
    quota = cpu_quota()
    whole = os.cpu_count() or 1
    return len(os.sched_getaffinity(0)) < whole or (quota is not None and quota < whole)


def default_threads() -> int:
    """Returns how many threads compute best here: one for each physical core that this process may
    use, and no more than a container's quota feeds, rounded up.
    """
    cores, quota = _usable_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, ceil(quota)))


def _usable_cores() -> int:
    """Counts physical cores. Source: the kernel's "CPU topology", thread_siblings_list."""
    allowed = os.sched_getaffinity(0)
    places = [_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in allowed]
    return len({(_lines(str(place)) or [place.parts[-3]])[0] for place in places})


def choose_threads(threads: int | None) -> int:
    """Returns the number of threads to compute with: `threads`, or `default_threads` for None.

    More than the cores that this process may use would only wait for each other: they are cut, and
    a warning says so.
    """
    if threads is None:
        return default_threads()
    most = len(os.sched_getaffinity(0))
    if threads > most:
        _log.warning("threads=%d: this process may use %d cores, so many are used", threads, most)
    return min(threads, most)
