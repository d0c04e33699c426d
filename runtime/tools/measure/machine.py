"""The machine and the settings that latencies were measured with.

Source: proc(5), cgroups(7) (cpu.max, cpu.cfs_quota_us), the kernel's cpufreq documentation.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ...backends.cpu import cpu_name
from ...files import available_memory

_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_CGROUPS = Path("/sys/fs/cgroup")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_AFFINITY")


@dataclass(frozen=True)
class Machine:
    """The machine's facts that latencies depend on. None where this system does not tell.

    Attributes:
        cpu: Model and architecture.
        cores: Those that this process may use (its affinity).
        cores_online: How many there are.
        governor: What sets the clock of the first core.
        frequency: Its range.
        cpu_limit: Share of the CPUs that a container allows.
        memory_free: Bytes that could be allocated at the start.
        system: Kernel.
        versions: Of Python, numpy and the backends' libraries.
        thread_settings: Environment variables that are set and change how libraries use threads.
    """

    cpu: str
    cores: tuple[int, ...]
    cores_online: int
    governor: str | None
    frequency: str | None
    cpu_limit: str | None
    memory_free: int
    system: str
    versions: dict[str, str]
    thread_settings: dict[str, str]


def describe_machine(backends: Iterable[tuple[str, str]]) -> Machine:
    """This machine as it is now; `backends` are names and versions."""
    versions = {"python": platform.python_version(), "numpy": version("numpy"), **dict(backends)}
    return Machine(
        cpu=cpu_name(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        cores_online=os.cpu_count() or 1,
        governor=_read(_FREQUENCY / "scaling_governor"),
        frequency=_frequency(),
        cpu_limit=_cpu_limit(),
        memory_free=available_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
        thread_settings={n: os.environ[n] for n in _THREAD_VARIABLES if n in os.environ},
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _frequency() -> str | None:
    """Formats frequencies, for example "600 to 2400 MHz". The files hold kHz."""
    bounds = [_read(_FREQUENCY / f"cpuinfo_{end}_freq") for end in ("min", "max")]
    if not all(bound and bound.isdigit() for bound in bounds):
        return None
    low, high = (int(bound or 0) // 1000 for bound in bounds)
    return f"{low} to {high} MHz"


def _cpu_limit() -> str | None:
    """Formats the tightest limit between the root and this process, for example "1.50 CPUs"."""
    limits = [limit for folder in _own_groups() if (limit := _group_limit(folder)) is not None]
    return f"{min(limits):.2f} CPUs" if limits else None


def _own_groups() -> Iterable[Path]:
    """The folders of this process's control groups, from its own up to the root."""
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        folder = root / path.lstrip("/")
        yield from (folder, *(p for p in folder.parents if p.is_relative_to(root)))


def _group_limit(folder: Path) -> float | None:
    """CPUs that the group may use: version 2 has one file, version 1 two; "max" and -1 are none."""
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = (_read(folder / "cpu.max") or " ".join(_read(folder / n) or "" for n in names)).split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])
