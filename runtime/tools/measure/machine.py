"""The machine and the settings that latencies were measured with.

Source: proc(5), the kernel's cpufreq documentation.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ...backends.cpu import cpu_name, cpu_quota, instruction_sets, memory_limit
from ...backends.cuda import device_name
from ...errors import BackendError, EngineError
from ...files import available_memory
from ..display import figures

_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
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
        memory_limit: Bytes that a container allows; None where nothing limits them.
        instructions: Instruction sets that matter to matrix products.
        gpu: Name and compute capability of the current NVIDIA GPU.
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
    memory_limit: int | None = None
    instructions: tuple[str, ...] = ()
    gpu: str | None = None

    def __str__(self) -> str:
        limit = "" if self.cpu_limit is None else f", {self.cpu_limit} allowed"
        memory = f", {figures(self.memory_free / 2**30)} GiB of memory free"
        gpu = "" if self.gpu is None else f", {self.gpu}"
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.cpu}{limit}{memory}{gpu}; {libraries}"

    def details(self) -> Iterator[str]:
        """Yields all of it, a fact in a line."""
        cores = ", ".join(map(str, self.cores))
        yield f"processor: {self.cpu}, {len(self.cores)} of {self.cores_online} cores ({cores})"
        yield f"quota of the container: {self.cpu_limit or 'none'}"
        yield f"instruction sets: {', '.join(self.instructions) or 'not known'}"
        yield f"clock: {self.frequency or 'not known'}, governor {self.governor or 'not known'}"
        limit = "none" if self.memory_limit is None else _gibibytes(self.memory_limit)
        yield f"memory: {_gibibytes(self.memory_free)} free, limit of the container: {limit}"
        yield f"GPU: {self.gpu or 'none that CUDA can use'}"
        yield f"system: {self.system}"
        yield f"versions: {', '.join(f'{n} {v}' for n, v in self.versions.items())}"
        settings = " ".join(f"{n}={v}" for n, v in self.thread_settings.items())
        yield f"settings of threads: {settings or 'none'}"


def _gibibytes(size: int) -> str:
    return f"{figures(size / 2**30)} GiB"


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
        memory_limit=memory_limit(),
        instructions=instruction_sets(),
        gpu=_gpu(),
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
    """Formats a container's limit, for example "1.50 CPUs"."""
    quota = cpu_quota()
    return None if quota is None else f"{quota:.2f} CPUs"


def _gpu() -> str | None:
    try:
        return device_name()
    except (BackendError, EngineError):
        return None
