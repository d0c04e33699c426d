"""Throughput and latency against threads, processes and batch size, of every engine on this CPU.

    python -m benchmarks.scaling BUNDLE [--precision P ...] [--backend B ...] [--seconds 2]
                                 [--batch 1 2 4 8 16 32] [--repeats 3]

Every point is measured in fresh processes that are pinned before they load anything; all points are
measured `--repeats` times by turns, and what counts is the median. Writes
`benchmarks/results/scaling.json` and `docs/scaling.png`, which `docs/performance.md` explains.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.tools.check import list_runnable
from vit_edge.runtime.tools.measure.interference import InterferenceWatch
from vit_edge.runtime.tools.measure.machine import describe_machine

from .scaling_plot import PLOT, draw

OUT = Path(__file__).parent / "results" / "scaling.json"


@dataclass(frozen=True)
class Point:
    """Point of the measurement: `processes` of them, each on `threads` cores of its own."""

    precision: str
    backend: str
    processes: int
    threads: int
    batch: int


def points(
    engines: Sequence[tuple[str, str]], cores: int, batches: Sequence[int]
) -> Iterator[Point]:
    """Yields points of all threads, all processes, all batch sizes; each point once."""
    for engine in engines:
        varied = [Point(*engine, 1, threads, 1) for threads in range(1, cores + 1)]
        varied += [Point(*engine, processes, 1, 1) for processes in range(2, cores + 1)]
        varied += [Point(*engine, 1, cores, batch) for batch in batches]
        varied += [Point(*engine, cores, 1, batch) for batch in batches]
        yield from dict.fromkeys(varied)


def measure(point: Point, bundle: Path, seconds: float) -> dict[str, float]:
    """Runs a point's processes together: median latency, worst p90, images per second of all."""
    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for index in range(point.processes):
        own = cores[index * point.threads : (index + 1) * point.threads]
        arguments = [bundle, point.precision, point.backend, point.batch, seconds]
        command = [sys.executable, "-m", "benchmarks.scaling_worker", *map(str, arguments)]
        command.append(",".join(map(str, own)))
        workers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        answers = [json.loads(line) for line in _start_together(workers)]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return {
        "p50_ms": statistics.median(answer["p50_ms"] for answer in answers),
        "p90_ms": max(answer["p90_ms"] for answer in answers),
        "images_per_s": sum(answer["images_per_s"] for answer in answers),
    }


def _start_together(workers: Sequence[subprocess.Popen[str]]) -> list[str]:
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not start: its error is above")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return [worker.stdout.readline() for worker in workers if worker.stdout is not None]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", nargs="+", default=[])
    parser.add_argument("--backend", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    bundle = Bundle.open(arguments.bundle)
    runnable = list_runnable(Deployment(bundle), arguments.precision, arguments.backend).candidates
    engines = [(c.precision, c.backend.name) for c in runnable]
    versions = {c.backend.name: c.backend.version() for c in runnable}
    machine, watch = describe_machine(versions.items()), InterferenceWatch()
    asked = list(points(engines, len(machine.cores), arguments.batch))
    results: dict[Point, list[dict[str, float]]] = {point: [] for point in asked}
    for turn in range(arguments.repeats):
        for point in asked if turn % 2 == 0 else reversed(asked):
            results[point].append(measure(point, arguments.bundle, arguments.seconds))
            print(f"turn {turn + 1}: {point}: {results[point][-1]}", flush=True)
    rows: list[dict[str, Any]] = [
        asdict(point) | {key: statistics.median(t[key] for t in turns) for key in turns[0]}
        for point, turns in results.items()
    ]
    result = {
        "model": bundle.manifest.name,
        "settings": {k: v for k, v in vars(arguments).items() if k != "bundle"},
        "machine": asdict(machine),
        "interference": asdict(watch.read()),
        "rows": rows,
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    draw(result, PLOT)


if __name__ == "__main__":
    main()
