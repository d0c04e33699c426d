"""Footprint of the runtime: installed size, import time, load time and resident memory.

    python -m benchmarks.footprint [--python PATH ...] [--backend NAME ...] [--bundle DIR]

For every Python and backend it makes a new environment, installs this checkout with that backend's
extra and nothing else, runs the README's example there, and measures. Needs an index of packages
and about a minute for each. Expected: `import vit_edge` within 60 ms beyond numpy everywhere, and
neither PyTorch nor ONNX imported; a table, and `benchmarks/results/footprint.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROBE = ROOT / "benchmarks" / "footprint_probe.py"
RESULTS = ROOT / "benchmarks" / "results" / "footprint.json"
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
BACKENDS = ("onnxruntime", "openvino")
"""Those that run without a GPU; each is its extra's name too."""
SIZES_ONLY = {
    "tensorrt-rtx": ["vit-edge[tensorrt-rtx]"],
    "tensorrt-lean": ["vit-edge", "tensorrt-lean-cu13-libs", "tensorrt-lean-cu13-bindings"],
}
"""Libraries that can be installed without a GPU, though not run."""
SOURCES = (
    "calibration", "export", "runtime", "vit", "vit_edge", "pyproject.toml", "README.md", "LICENSE",
)  # fmt: skip
MAX_IMPORT_MS = 60
IMPORTS, FIRST_LOADS, LATER_LOADS = 15, 3, 5
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One Python with one backend. Sizes and memory in bytes, times in milliseconds (medians).

    Attributes:
        sizes: Of every installed distribution; ours is "vit-edge".
        imports: `numpy_ms`, and `runtime_ms` where numpy is imported already; `numpy_cpu_ms` and
            `runtime_cpu_ms` are the processor's time, which suffers less from what else it does.
        first_load_ms: With an empty cache: the golden check, and what else is done once.
        bare: `load_ms` (the library's import included) and `resident_bytes` of a program that
            opens the same graph with the backend's own library.
    """

    python: str
    backend: str
    version: str
    precision: str
    sizes: dict[str, int]
    imports: dict[str, float]
    first_load_ms: float
    later_load_ms: float
    resident_bytes: int
    numpy_resident_bytes: int
    bare: dict[str, float]


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which nothing but the runtime and one backend is installed."""

    python: Path
    work: Path

    def probe(self, *arguments: str, cache: str = "cache") -> Any:
        """Takes one measurement in a fresh process."""
        command = [self.python, "-I", PROBE, *arguments]
        done = subprocess.run(
            command,
            cwd=self.work,
            env={**os.environ, "XDG_CACHE_HOME": str(self.work / cache)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def build_wheel(work: Path) -> Path:
    """Builds our wheel from a copy, because a build leaves files in the checkout."""
    copy = work / "source"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        (partial(shutil.copytree, symlinks=True) if source.is_dir() else shutil.copy)(
            source, copy / name
        )
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(work), str(copy))
    return next(work.glob("vit_edge-*.whl"))


@contextmanager
def environment(python: str, requirements: list[str], bundle: Path) -> Iterator[Environment]:
    """Makes a new environment with the requirements, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([python, "-m", "venv", "--without-pip", work / "venv"], check=True)
        inside = work / "venv" / "bin" / "python"
        _pip(python, "--python", str(inside), "install", *requirements)
        shutil.copytree(bundle, work / "build" / "vit_digits")  # as the README names it
        yield Environment(inside, work)


def _pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "-q", *arguments], check=True)


def readme_example() -> str:
    """Extracts the three lines that the README promises."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "Engine.load" in block)


def measure(python: str, backend: str, wheel: Path, bundle: Path) -> Row:
    """Measures one row. Raises RuntimeError if the README's example fails or the runtime is not
    thin.
    """
    with environment(python, [f"vit-edge[{backend}] @ {wheel.as_uri()}"], bundle) as here:
        inside = "build/vit_digits"
        ran = here.probe("example", readme_example(), inside)
        imports = [here.probe("imports") for _ in range(IMPORTS)]
        first = [
            here.probe("load", inside, backend, cache=f"new{i}")["load_ms"]
            for i in range(FIRST_LOADS)
        ]
        later, bare = [], []
        for _ in range(LATER_LOADS):  # by turns, so that both meet the same noise
            later.append(here.probe("load", inside, backend, cache="new0"))
            graph = here.probe("describe", inside, later[0]["precision"])
            file, shape = f"{inside}/{graph['file']}", json.dumps(graph["shape"])
            bare.append(here.probe("bare", file, backend, shape))
        alone = [here.probe("numpy_alone")["resident_bytes"] for _ in range(LATER_LOADS)]
        return Row(
            python=ran["python"],
            backend=backend,
            version=later[0]["version"],
            precision=later[0]["precision"],
            sizes=here.probe("sizes"),
            imports={key: _median(imports, key) for key in imports[0]},
            first_load_ms=statistics.median(first),
            later_load_ms=_median(later, "load_ms"),
            resident_bytes=int(_median(later, "resident_bytes")),
            numpy_resident_bytes=int(statistics.median(alone)),
            bare={key: _median(bare, key) for key in ("load_ms", "resident_bytes")},
        )


def _median(probes: list[dict[str, float]], key: str) -> float:
    return statistics.median(probe[key] for probe in probes)


def measure_sizes(python: str, wheel: Path, bundle: Path) -> dict[str, dict[str, int]]:
    """Measures every distribution, in bytes, of the backends that cannot run here."""
    sizes = {}
    for name, requirements in SIZES_ONLY.items():
        ours = rf"vit-edge\1 @ {wheel.as_uri()}"
        packages = [re.sub(r"^vit-edge(\S*)$", ours, name) for name in requirements]
        with environment(python, packages, bundle) as here:
            sizes[name] = here.probe("sizes")
    return sizes


def print_table(rows: list[Row], sizes: dict[str, dict[str, int]]) -> None:
    """Prints the table of docs/runtime.md."""
    print(
        "| Python | backend | installed: all / ours | `import vit_edge` (CPU) | "
        "`import numpy` (CPU) | first load | later loads | bare backend | memory | bare backend |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = (
            row.python,
            f"{row.backend} {row.version}, {row.precision}",
            f"{sum(row.sizes.values()) / MIB:.0f} / {row.sizes['vit-edge'] / MIB:.1f} MiB",
            f"{row.imports['runtime_ms']:.0f} ({row.imports['runtime_cpu_ms']:.0f}) ms",
            f"{row.imports['numpy_ms']:.0f} ({row.imports['numpy_cpu_ms']:.0f}) ms",
            f"{row.first_load_ms:.0f} ms",
            f"{row.later_load_ms:.0f} ms",
            f"{row.bare['load_ms']:.0f} ms",
            f"{row.resident_bytes / MIB:.0f} MiB",
            f"{row.bare['resident_bytes'] / MIB:.0f} MiB",
        )
        print("| " + " | ".join(cells) + " |")
    for name, packages in sizes.items():
        parts = ", ".join(f"{p} {size / MIB:.0f}" for p, size in sorted(packages.items()))
        print(f"{name}: {sum(packages.values()) / MIB:.0f} MiB ({parts})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", nargs="+", default=[p for p in PYTHONS if shutil.which(p)])
    parser.add_argument("--backend", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--bundle", type=Path, default=ROOT / "build" / "vit_digits")
    arguments = parser.parse_args()
    rows, sizes = [], {}
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for python in arguments.python:
            for backend in arguments.backend:
                print(f"measuring {backend} on {python} ...", file=sys.stderr, flush=True)
                rows.append(measure(python, backend, wheel, arguments.bundle))
        sizes = measure_sizes(arguments.python[0], wheel, arguments.bundle)
    report = {"rows": [asdict(row) for row in rows], "sizes_only": sizes}
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print_table(rows, sizes)
    slow = [row for row in rows if row.imports["runtime_cpu_ms"] > MAX_IMPORT_MS]
    for row in slow:
        print(f"import vit_edge takes {row.imports['runtime_cpu_ms']:.0f} ms on {row.python}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
