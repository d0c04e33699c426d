"""Our INT8 beside the other quantisers' of ViTs, with and without outliers.

    python -m benchmarks.quantisation [--models vit_digits characters ...] [--parts contest ...]

Every quantiser gets the same fp32 graph and the same 128 calibration images and is judged in ONNX
Runtime by the same evaluation images; each runs in a process and, where it is not ours, in an
environment of its own, made on first use (about 4 GB). Models: `vit_digits`; a ViT for rendered
characters; the same with massive activations trained into its residual stream; each also with
outliers injected that change nothing in fp32. Two more parts: how far twenty small calibration sets
spread, and what a ViT-B/16 takes.

Prints tables and writes `benchmarks/results/quantisation.json`. Takes about two hours on 2 cores, a
third of it training. What was done is kept under `build/benchmarks/`: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import contest_rows, large, subsets
from .subjects import NAMES

CACHE = Path("build/benchmarks")
OUT = Path("benchmarks/results/quantisation.json")

PARTS: dict[str, Callable[[str, Path], list[dict[str, Any]]]] = {
    "contest": contest_rows.rows,
    "subsets": subsets.rows,
}
"""What is done with each model: from its name to rows of the report."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    choices = (*PARTS, "large")
    parser.add_argument("--parts", nargs="+", choices=choices, default=choices)
    return parser.parse_args()


def main() -> None:
    options = parse()
    CACHE.mkdir(parents=True, exist_ok=True)
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    for part in options.parts:
        if part == "large":
            report[part] = large.rows(CACHE)
            write(report)
        else:
            for name in options.models:
                add(report, part, name, PARTS[part](name, CACHE))


def add(report: dict[str, Any], part: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Puts rows in the place of those that the report had of this model; writes it."""
    others = [row for row in report.get(part, []) if row["model"] != name]
    report[part] = sorted(others + rows, key=lambda row: NAMES.index(row["model"]))
    write(report)


def write(report: dict[str, Any]) -> None:
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
