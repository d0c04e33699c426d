"""Limits that control groups set to this process: CPUs and memory, as containers do.

Source: cgroups(7); the kernel's "Control Group v2" (cpu.max, memory.max, memory.current); for
version 1 "CFS Bandwidth Control" (cpu.cfs_quota_us, cpu.cfs_period_us) and "Memory Resource
Controller" (memory.limit_in_bytes, memory.usage_in_bytes, memory.stat).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_MEMORY = ("memory.max", "memory.limit_in_bytes")
_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


def cpu_quota() -> float | None:
    """Returns how many CPUs this process's groups allow, as 1.5; None where nothing limits them.

    The tightest limit between the root and the group of the process counts.
    """
    limits = [limit for group in _groups("cpu") if (limit := _group_quota(group)) is not None]
    return min(limits, default=None)


def memory_limit() -> int | None:
    """Returns how many bytes this process's groups allow; None where nothing limits them."""
    return min((limit for _, limit in _memory_limits()), default=None)


def memory_left() -> int | None:
    """Returns how many bytes the groups still allow, caches of files counted as free; None where
    nothing limits them.
    """
    left = [limit - _memory_used(group) for group, limit in _memory_limits()]
    return max(0, min(left)) if left else None


def _groups(controller: str) -> Iterable[Path]:
    """Yields the folders of this process's groups, from its own up to the root.

    A container may see its own group as the root, under a path that is its host's: such folders
    are not there, and the root has its limits.
    """
    for line in (_read(OWN) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = ROOT / controllers if controllers else ROOT
        folder = root / path.lstrip("/")
        yield from (folder, *(p for p in folder.parents if p.is_relative_to(root)))


def _group_quota(group: Path) -> float | None:
    """CPUs that a group may use: version 2 has one file, version 1 two; "max" and -1 are none."""
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
    """Bytes that a group holds and that cannot be reclaimed at once."""
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
