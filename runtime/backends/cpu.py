"""The processor and the memory that this process may use, within the limits that control groups set
in containers.

Source of the limits: cgroups(7); the kernel's "Control Group v2" (cpu.max, memory.max,
memory.current); for version 1 "CFS Bandwidth Control" (cpu.cfs_quota_us, cpu.cfs_period_us) and
"Memory Resource Controller" (memory.limit_in_bytes, memory.usage_in_bytes, memory.stat).
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterable, Iterator
from functools import cache
from math import ceil
from pathlib import Path

_log = logging.getLogger("vit_edge.runtime")
_SOURCES = (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", ""))
"""x86 machines name their processor in the first, Arm boards name themselves in the second."""
_TOPOLOGY = Path("/sys/devices/system/cpu")
_FLAGS = ("flags", "Features")
"""Fields of /proc/cpuinfo that list instruction sets, on x86 and Arm."""
_INSTRUCTIONS = (
    "avx", "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
"""Instruction sets that matter to matrix products, as the kernel writes them."""


@cache
def cpu_name() -> str:
    """Returns model, architecture, usable cores and a container's quota, on which latencies depend,
    such as "AMD EPYC 9B45 (x86_64, 2 cores)" or "AMD EPYC 9B45 (x86_64, 2 cores, quota 1.5)".

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
    """Returns true if affinity (taskset, a cpuset) or a quota limits this process to less than the
    whole machine.
    """
    quota = cpu_quota()
    whole = os.cpu_count() or 1
    return len(os.sched_getaffinity(0)) < whole or (quota is not None and quota < whole)


def default_threads() -> int:
    """Returns the number of threads that suits this machine: one for each physical core that this
    process may use, but no more than a container's quota, rounded up.
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

    More threads than cores that this process may use would only wait for each other: the number is
    cut, with a warning.
    """
    if threads is None:
        return default_threads()
    most = len(os.sched_getaffinity(0))
    if threads > most:
        _log.warning("threads=%d: this process may use %d cores, so many are used", threads, most)
    return min(threads, most)


CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMORY = ("memory.max", "memory.limit_in_bytes")
_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


def cpu_quota() -> float | None:
    """Returns how many CPUs this process's groups allow, such as 1.5; None without a limit.

    The tightest limit between the root and the group of the process counts.
    """
    limits = [limit for group in _groups("cpu") if (limit := _group_quota(group)) is not None]
    return min(limits, default=None)


def memory_limit() -> int | None:
    """Returns how many bytes this process's groups allow; None without a limit."""
    return min((limit for _, limit in _memory_limits()), default=None)


def memory_left() -> int | None:
    """Returns how many bytes the groups still allow, counting file caches as free; None without a
    limit.
    """
    left = [limit - _memory_used(group) for group, limit in _memory_limits()]
    return max(0, min(left)) if left else None


def _groups(controller: str) -> Iterable[Path]:
    """Yields the folders of this process's groups, from its own up to the root.

    A container may see its own group as the root, but a path from its host: folders of that path
    do not exist here, and the root has the limits.
    """
    for line in (_read(OWN_CGROUPS) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUP_ROOT / controllers if controllers else CGROUP_ROOT
        folder = root / path.lstrip("/")
        yield from (folder, *(p for p in folder.parents if p.is_relative_to(root)))


def _group_quota(group: Path) -> float | None:
    """Returns the CPUs that a group may use: version 2 has one file, version 1 two; "max" and -1
    mean no limit.
    """
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = (_read(group / "cpu.max") or " ".join(_read(group / n) or "" for n in names)).split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or 0 in map(int, words):
        return None
    return int(words[0]) / int(words[1])


def _memory_limits() -> Iterator[tuple[Path, int]]:
    for group in _groups("memory"):
        text = _read(group / _MEMORY[0]) or _read(group / _MEMORY[1]) or ""
        if text.isdigit() and 0 < int(text) < _UNLIMITED:
            yield group, int(text)


def _memory_used(group: Path) -> int:
    """Returns the bytes that a group holds and that cannot be reclaimed at once."""
    used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or ""
    rows = [line.split() for line in (_read(group / "memory.stat") or "").splitlines()]
    caches = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    cached = caches.get("total_inactive_file", caches.get("inactive_file", 0))
    return (int(used) if used.isdigit() else 0) - cached


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
