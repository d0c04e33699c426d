"""Cost of an export: time and memory of each stage, and their growth.

    python -m benchmarks.cost [--markdown FILE] [--only WHAT ...]

Exports ViT-Ti, S, B and L with random weights as `vit-edge export` does, from nothing, each in a
process of its own: fp32, fp16 and int8 with 128 calibration and 128 evaluation images, and the
engines of every TensorRT that builds here. Then ViT-Ti with more images and with more layers.
Writes `benchmarks/results/cost.json` after each; the whole takes half an hour on 2 cores.
`--only vit_base_patch16_224` measures that row again and keeps the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_edge.runtime.backends.cpu import cpu_name
from vit_edge.vit.datasets import samples
from vit_edge.vit.variants import find_variant

from .documents import put_into

OUT = Path("benchmarks/results/cost.json")
MODELS = tuple(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large"))
IMAGES = 128
MORE_IMAGES, DEPTHS = (64, 128, 256, 512), (6, 12, 24, 48)
GROWING = MODELS[0]
_STAGE = re.compile(r"^(.+): ([0-9.]+) s$")


@dataclass(frozen=True)
class Cost:
    """Cost of one export.

    Attributes:
        what: The model, or its difference from the usual one.
        seconds: From the start of the process to its end.
        peak_mib: The largest resident memory.
        stages: Seconds of each stage, in the order in which they ran.
        date: Day of the measurement.
    """

    what: str
    seconds: float
    peak_mib: float
    stages: dict[str, float]
    date: str


def export(what: str, model: str, folder: Path, *options: str, images: int = IMAGES) -> Cost:
    """Exports a model from nothing; frames and results are in `folder` meanwhile.

    Raises:
        RuntimeError: with the last line of its output, if it fails.
    """
    calibration, evaluation = (
        write_images(folder, model, split, images) for split in ("calibration", "evaluation")
    )
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        command = [
            sys.executable, "-m", "vit_edge", "export", model, "--out", f"{fresh}/{model}",
            f"--calib={calibration}", f"--eval={evaluation}", f"--calibration-size={images}",
            *options,
        ]  # fmt: skip
        log, start = Path(fresh) / "log.txt", time.perf_counter()
        with log.open("w") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
            _, status, usage = os.wait4(process.pid, 0)
        seconds, said = time.perf_counter() - start, log.read_text()
    if status:
        raise RuntimeError(f"{what}: {said.strip().splitlines()[-1]}")
    today = time.strftime("%Y-%m-%d")
    return Cost(what, round(seconds, 1), round(usage.ru_maxrss / 1024), stages_of(said), today)


def stages_of(said: str) -> dict[str, float]:
    """Reads the seconds of each stage from an export's output."""
    stages: dict[str, float] = {}
    for line in said.splitlines():
        if match := _STAGE.match(line):
            stages[match[1]] = stages.get(match[1], 0.0) + float(match[2])
    return stages


def write_images(folder: Path, model: str, split: str, count: int) -> Path:
    """Writes crops of the sample photographs, repeated turned and mirrored if there are too few:
    their cost does not depend on their content.
    """
    preprocess = find_variant(model).preprocess
    crops = np.concatenate(list(samples(split, preprocess).batches(IMAGES)))
    turned = [np.rot90(side, k, (1, 2)) for side in (crops, crops[:, :, ::-1]) for k in range(4)]
    images = np.concatenate(turned)[:count]
    if len(images) < count:
        raise ValueError(f"{count} images are too many: there are {len(images)}")
    path = folder / f"{split}-{preprocess.shape[0]}-{count}.npz"
    np.savez(path, images=images)
    return path


@dataclass(frozen=True)
class Row:
    """An export to measure, and the table that it belongs to."""

    table: str
    what: str
    model: str
    images: int = IMAGES
    depth: int | None = None

    def measure(self, folder: Path) -> Cost:
        """Exports the model and returns the cost."""
        if self.depth is None:
            return export(self.what, self.model, folder, images=self.images)
        config = folder / f"depth-{self.depth}.json"
        config.write_text(json.dumps({"depth": self.depth}))
        return export(self.what, self.model, folder, f"--config={config}", images=self.images)


ROWS = (
    *(Row("models", model, model) for model in MODELS),
    *(Row("images", f"{images} images", GROWING, images=images) for images in MORE_IMAGES),
    *(Row("depth", f"{depth} layers", GROWING, depth=depth) for depth in DEPTHS),
)


def add(report: dict[str, Any], row: Row, cost: Cost) -> None:
    """Puts a row into its table, in place of an earlier one of that name."""
    rows = {cost["what"]: cost for cost in report.setdefault(row.table, [])}
    rows[row.what] = asdict(cost)
    order = [planned.what for planned in ROWS]
    report[row.table] = sorted(rows.values(), key=lambda cost: order.index(cost["what"]))


def read_report(file: Path) -> dict[str, Any]:
    """Reads earlier measurements of this machine."""
    before = json.loads(file.read_text()) if file.is_file() else {}
    return before if before.get("machine") == cpu_name() else {"machine": cpu_name()}


def markdown(report: dict[str, Any]) -> str:
    """Formats the tables."""
    models = [Cost(**cost) for cost in report.get("models", ())]
    names = list(dict.fromkeys(stage for cost in models for stage in cost.stages))
    dates = sorted({cost["date"] for row in ROWS for cost in report.get(row.table, ())})
    lines = [f"{report['machine']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.", ""]
    lines += _row("stage, in seconds", *(cost.what for cost in models))
    lines += ["| --- " * (len(models) + 1) + "|"]
    for name in names:
        lines += _row(name, *(_seconds(cost.stages.get(name)) for cost in models))
    lines += _row("**all, in seconds**", *(f"**{cost.seconds:.0f}**" for cost in models))
    lines += _row("**most memory, in MiB**", *(f"**{cost.peak_mib:.0f}**" for cost in models))
    for title in ("images", "depth"):
        costs = [Cost(**cost) for cost in report.get(title, ())]
        lines += ["", *_row(GROWING, *(cost.what for cost in costs))]
        lines += ["| --- " * (len(costs) + 1) + "|"]
        lines += _row("seconds", *(f"{cost.seconds:.1f}" for cost in costs))
        lines += _row("on a straight line", *(f"{seconds:.1f}" for seconds in straight(costs)))
        lines += _row("most memory, in MiB", *(f"{cost.peak_mib:.0f}" for cost in costs))
    return "\n".join(lines) + "\n"


def straight(costs: Sequence[Cost]) -> list[float]:
    """Returns the seconds on a straight line through all: least squares over the number with which
    `what` begins.
    """
    numbers = [float(cost.what.split()[0]) for cost in costs]
    if len(costs) < 2:
        return [cost.seconds for cost in costs]
    slope, start = np.polyfit(numbers, [cost.seconds for cost in costs], 1)
    return [float(start + slope * number) for number in numbers]


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What an export costs.")
    parser.add_argument(
        "--markdown",
        type=Path,
        help="a document that gets the tables, between <!-- cost --> and <!-- /cost -->",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WHAT",
        choices=[row.what for row in ROWS],
        help="the rows to measure; those measured on this machine before stay (default: all, anew)",
    )
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.only or row.what in options.only]
    report = read_report(OUT) if options.only else {"machine": cpu_name()}
    with tempfile.TemporaryDirectory() as name:
        for row in rows:
            cost = row.measure(Path(name))
            print(f"{cost.what}: {cost.seconds:.0f} s, {cost.peak_mib:.0f} MiB", flush=True)
            add(report, row, cost)
            OUT.write_text(json.dumps(report, indent=1) + "\n")  # what follows takes long
    print(markdown(report), end="")
    if options.markdown is not None:
        put_into(options.markdown, "cost", markdown(report))


if __name__ == "__main__":
    main()
