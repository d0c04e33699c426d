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
_RUNS = 3


@dataclass(frozen=True)
class Peak:
    """10^9 multiply-adds a second of one type: of one core, and of all that were asked for."""

    instructions: str
    core_gmacs: float
    all_gmacs: float


@dataclass(frozen=True)
class Peaks:
    """By type, "fp32", "bf16" and "int8"; None where the CPU has no instructions of it.

    `problem` says why nothing is known at all.
    """

    by_type: dict[str, Peak | None]
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Peaks:
        types = {name: found and Peak(**found) for name, found in read["by_type"].items()}
        return cls(types, read["problem"])


def measure_peaks(threads: int, cache: Path, seconds: float = 0.15) -> Peaks:
    """Takes about 18 times `seconds`. The best of three runs counts: other work only ever slows."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Peaks({}, "no C compiler here: install gcc for the share of the peak")
    try:
        program = _compile(compiler, cache)
        command = [str(program), str(threads), str(seconds)]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(_RUNS)
        ]
    except subprocess.CalledProcessError as error:
        return Peaks({}, f"{error.cmd[0]}: {(error.stderr or str(error)).splitlines()[0][:200]}")
    return Peaks({name: _best([run[name] for run in runs]) for name in runs[0]})


def better(a: Peaks, b: Peaks) -> Peaks:
    """The best of both measurements, type by type."""
    if a.problem or b.problem:
        return b if a.problem else a
    return Peaks(
        {n: _best([asdict(p) if p else None for p in (a.by_type[n], b.by_type[n])])
         for n in a.by_type}
    )  # fmt: skip


def _compile(compiler: str, cache: Path) -> Path:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = cache.absolute() / f"peak-{digest}"
    if not program.exists():
        command: list[str | Path]
        command = [compiler, "-O3", "-march=native", "-pthread", SOURCE, "-o", program]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def _best(runs: list[dict[str, Any] | None]) -> Peak | None:
    found = [run for run in runs if run]
    if not found:
        return None
    core, everything = (max(run[key] for run in found) for key in ("core_gmacs", "all_gmacs"))
    return Peak(found[0]["instructions"], core, everything)
