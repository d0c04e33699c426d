"""Our engines against PyTorch, eager and compiled, on the same card with the same frames.

    python -m benchmarks.gpu [BUNDLE] [--batch N ...] [--rounds N]      (make bench-gpu)

Without a bundle it exports one of ViT-B/16 for batches up to 256 and builds its engines here, which
takes some minutes. From frames in host memory to scores in host memory, after a warm-up, in rounds
in which all take turns. fp32 is fp32: TF32 is off on both sides. Prints a table for each batch size
and writes `benchmarks/results/gpu-CARD.json`, with clocks, power and driver.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import first_line
from vit_edge.runtime.manifest import Fact
from vit_edge.runtime.tools.display import print_table, say

from .card import Card, find_gpu
from .gpu_contenders import WAYS, Contender, engines, pytorch
from .latency import Run, interleave

MODEL, MAX_BATCH = "vit_base_patch16_224", 256
BATCHES, ROUNDS = (1, 8, 32, 128, 256), 25
RESULTS = Path("benchmarks/results")
_BUNDLE = Path("build") / f"{MODEL}-batch-{MAX_BATCH}"
_BASE = "pytorch"
"""Baseline of each of our precisions: PyTorch in the type that its arithmetic replaces."""
_REPLACES = {"int8": "fp16", "fp8": "fp16", "int4": "fp16", "nvfp4": "fp16", "mixed": "fp16"}
_COLUMNS = ("precision", "runtime", "p50 ms", "p90 ms", "images/s", "against PyTorch", "")


@dataclass(frozen=True)
class Row:
    """One contender at one batch size; `error` is the reason for missing times."""

    precision: str
    runtime: str
    batch: int
    calls: int = 0
    p50_ms: float | None = None
    p90_ms: float | None = None
    images_per_s: float | None = None
    error: str = ""

    @property
    def name(self) -> str:
        return f"{self.precision} {self.runtime}"


@dataclass(frozen=True)
class Result:
    """All rows, and the card that they were measured on.

    `states` are the card's before the first batch size and after each.
    """

    card: str
    bundle: str
    model: dict[str, Fact]
    versions: dict[str, str]
    states: tuple[dict[str, str], ...]
    rows: tuple[Row, ...]
    absent: dict[str, str]


def measure(
    contenders: list[Contender],
    frames: NDArray[np.uint8],
    batches: list[int],
    card: Card,
    rounds: int,
) -> tuple[list[Row], list[dict[str, str]]]:
    """Times every contender at every batch size; `frames` are as many as the largest."""
    rows, states = [], [card.state()]
    with ExitStack() as stack:
        runs, failed = _start(contenders, stack)
        for batch in batches:
            say(f"batch {batch} ...")
            rows += _measure_batch(contenders, runs, failed, frames[:batch], rounds)
            states.append(card.state())
    return rows, states


def _start(contenders: list[Contender], stack: ExitStack) -> tuple[dict[str, Run], dict[str, str]]:
    runs, failed = {}, {}
    for contender in contenders:
        say(f"starting {contender.name} ...")
        try:
            runs[contender.name] = contender.start(stack)
        except Exception as error:  # what does not start is a result
            failed[contender.name] = first_line(error)
    return runs, failed


def _measure_batch(
    contenders: list[Contender],
    runs: dict[str, Run],
    failed: dict[str, str],
    frames: NDArray[np.uint8],
    rounds: int,
) -> list[Row]:
    errors, able = dict(failed), dict[str, Run]()
    for name, run in runs.items():
        try:
            run(frames)  # compiles, captures, allocates
            able[name] = run
        except Exception as error:  # out of memory, most likely: a result
            errors[name] = first_line(error)
    times = interleave(able, frames, rounds)
    rows = []
    for contender in contenders:
        row = Row(contender.precision, contender.runtime, len(frames))
        if contender.name in errors:
            rows.append(dataclasses.replace(row, error=errors[contender.name]))
        else:
            rows.append(_timed(row, [s for calls in times[contender.name] for s in calls]))
    return rows


def _timed(row: Row, seconds: list[float]) -> Row:
    p50, p90 = (1000 * float(q) for q in np.percentile(seconds, [50, 90]))
    rate = 1000 * row.batch / p50
    return dataclasses.replace(row, calls=len(seconds), p50_ms=p50, p90_ms=p90, images_per_s=rate)


def plan_batches(batches: tuple[int, ...], most: int) -> tuple[list[int], list[int]]:
    """Sorts batch sizes into those that the engines take as one batch, and larger ones."""
    sizes = sorted(set(batches))
    return [b for b in sizes if b <= most], [b for b in sizes if b > most]


def show(result: Result) -> None:
    """Prints a table for each batch size."""
    for batch in dict.fromkeys(row.batch for row in result.rows):
        rows = [row for row in result.rows if row.batch == batch]
        by_name = {row.name: row for row in rows}
        print_table(
            f"{result.card}, batch {batch}", _COLUMNS, [_cells(row, by_name) for row in rows]
        )
    for name, reason in result.absent.items():
        print(f"not run: {name}: {reason}")


def _cells(row: Row, by_name: dict[str, Row]) -> tuple[str, ...]:
    if row.p50_ms is None or row.p90_ms is None or row.images_per_s is None:
        return (row.precision, row.runtime, "-", "-", "-", "-", row.error)
    base = by_name.get(f"{_REPLACES.get(row.precision, row.precision)} {_BASE}")
    gain = f"{base.p50_ms / row.p50_ms:.2f}x" if base is not None and base.p50_ms else "-"
    times = (f"{row.p50_ms:.3f}", f"{row.p90_ms:.3f}", f"{row.images_per_s:.0f}")
    return (row.precision, row.runtime, *times, gain, "")


@dataclass(frozen=True)
class Job:
    """Request for a measurement: batch sizes, rounds for each, our backends, and PyTorch's ways."""

    batches: tuple[int, ...] = BATCHES
    rounds: int = ROUNDS
    backends: tuple[str, ...] = tuple(n for n, b in BACKENDS.items() if b.graph == "gpu")
    ways: tuple[str, ...] = tuple(WAYS)


def run(bundle: Bundle, card: Card, job: Job) -> Result:
    """Measures every contender that runs on the card."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    spec = bundle.manifest.spec
    batches, too_large = plan_batches(job.batches, spec.max_batch)
    ours, absent = engines(bundle, job.backends)
    for batch in too_large:
        absent[f"batch {batch}"] = f"the bundle's engines are for up to {spec.max_batch} images"
    shape = (max(batches, default=1), *spec.image_shape)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    contenders = [*ours, *pytorch(bundle.manifest, card, job.ways)]
    rows, states = measure(contenders, frames, batches, card, job.rounds)
    versions = {name: BACKENDS[name].version() for name in job.backends if name not in absent}
    versions["torch"] = version("torch")
    model = bundle.manifest.model
    return Result(
        card.name, bundle.manifest.name, model, versions, tuple(states), tuple(rows), absent
    )


def write(result: Result, folder: Path, slug: str) -> Path:
    """Writes the result as JSON, one file for each card."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"gpu-{slug}.json"
    file.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")
    return file


def find_bundle(path: Path | None) -> Bundle:
    """Returns `path`, or for None a bundle of ViT-B/16 for large batches, exported if missing."""
    if path is None and not _BUNDLE.exists():
        export_bundle(ExportRequest(model=MODEL, max_batch=MAX_BATCH, out=_BUNDLE), Display())
    return Bundle.open(path or _BUNDLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE")
    parser.add_argument("--batch", type=int, nargs="+", default=Job.batches, metavar="N")
    parser.add_argument("--rounds", type=int, default=Job.rounds, metavar="N")
    arguments = parser.parse_args()
    card = find_gpu()
    if card is None:
        say("there is no GPU that PyTorch can use here: this benchmark needs one")
        return 2
    job = Job(tuple(arguments.batch), arguments.rounds)
    result = run(find_bundle(arguments.bundle), card, job)
    show(result)
    print(write(result, RESULTS, card.slug))
    return 0


if __name__ == "__main__":
    sys.exit(main())
