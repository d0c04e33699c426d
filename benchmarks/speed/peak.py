"""The machine's peak: `peak.c`, compiled for this CPU and run."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("peak.c")


@dataclass(frozen=True)
class Peak:
    """10^9 multiply-adds a second of one type: of one core, and of all requested cores."""

    instructions: str
    core_gmacs: float
    all_gmacs: float


@dataclass(frozen=True)
class Peaks:
    """Peaks by type: "fp32", "bf16" and "int8"; None if the CPU has no instructions for it.

    `problem` says why nothing is known at all.
    """

    by_type: dict[str, Peak | None]
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Peaks:
        types = {name: peak and Peak(**peak) for name, peak in read["by_type"].items()}
        return cls(types, read["problem"])


def measure_peaks(threads: int, cache: Path, seconds: float = 0.02) -> Peaks:
    """Measures for about six times `seconds`, compiled once. Other work can only slow it down: keep
    the `better` of several.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Peaks({}, "no C compiler here: install gcc for the share of the peak")
    try:
        command = [str(_compile(compiler, cache)), str(threads), str(seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        message = (error.stderr or str(error)).splitlines()[0][:200]
        return Peaks({}, f"{Path(error.cmd[0]).name}: {message}")
    peaks = json.loads(done.stdout)
    return Peaks({name: peak and Peak(**peak) for name, peak in peaks.items()})


def better(a: Peaks, b: Peaks) -> Peaks:
    """Returns the best of both measurements, type by type."""
    if a.problem or b.problem:
        return b if a.problem else a
    return Peaks({name: _best(a.by_type[name], b.by_type[name]) for name in a.by_type})


def _best(a: Peak | None, b: Peak | None) -> Peak | None:
    if a is None or b is None:
        return a or b
    core, everything = max(a.core_gmacs, b.core_gmacs), max(a.all_gmacs, b.all_gmacs)
    return Peak(a.instructions, core, everything)


def _compile(compiler: str, cache: Path) -> Path:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = cache.absolute() / f"peak-{digest}"
    if not program.exists():
        command: list[str | Path]
        command = [compiler, "-O3", "-march=native", "-pthread", SOURCE, "-o", program]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return program
