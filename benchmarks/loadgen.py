"""MLPerf's LoadGen on our Engine: an independent check of `runtime.tools.measure`.

    python -m benchmarks.loadgen BUNDLE [--precision P ...] [--backend B ...] [--seconds 5]
                                 [--batch 8] [--repeats 3] [--official]

Expected: p50, p90, p99 and samples per second within a few per cent of ours, for models that take
milliseconds; LoadGen's Python binding adds some microseconds to each query, which is measured with
an engine that does nothing. Both measure the same engine in the same process, by
turns; what counts is the median over the turns. `--official` takes
MLPerf's minimums (600 s, 24576 samples for Offline): minutes become hours. Writes
`benchmarks/results/loadgen.json`. Needs the `bench` extra.

Source: LoadGen's Python bindings (mlperf_loadgen), MLPerf Inference rules, mlperf.conf.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen
import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime import Engine
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.tools.check import list_runnable
from vit_edge.runtime.tools.measure.interference import InterferenceWatch
from vit_edge.runtime.tools.measure.machine import describe_machine
from vit_edge.runtime.tools.measure.rounds import (
    EARLY_STOPPING_CALLS,
    MLPERF_SECONDS,
    Schedule,
    Series,
    measure_rounds,
)
from vit_edge.runtime.tools.measure.statistics import percentiles, throughput

OUT = Path(__file__).parent / "results" / "loadgen.json"
OFFICIAL_SAMPLES = 24576
_ROUNDS = 4
_LATENCIES = {
    "p50_ms": "result_50.00_percentile_latency_ns",
    "p90_ms": "result_90.00_percentile_latency_ns",
    "p99_ms": "result_99.00_percentile_latency_ns",
    "mean_ms": "result_mean_latency_ns",
}

Numbers = dict[str, float]
Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class System:
    """LoadGen's system under test: an engine and the frames that it is asked for."""

    def __init__(self, engine: Scores, images: NDArray[np.uint8], batch: int) -> None:
        self._engine, self._images, self._batch = engine, images, batch

    def answer(self, samples: Sequence[Any]) -> None:
        """Answers a query; LoadGen stops each sample's clock when its answer is reported."""
        for start in range(0, len(samples), self._batch):
            part = samples[start : start + self._batch]
            scores = self._engine(self._images[[sample.index for sample in part]])
            loadgen.QuerySamplesComplete(
                [
                    loadgen.QuerySampleResponse(sample.id, row.ctypes.data, row.nbytes)
                    for sample, row in zip(part, scores, strict=True)
                ]
            )


@contextmanager
def constructed(system: System, images: int) -> Iterator[tuple[Any, Any]]:
    """Constructs LoadGen's handles of the system and of its samples, already in memory."""
    sut = loadgen.ConstructSUT(system.answer, lambda: None)
    qsl = loadgen.ConstructQSL(images, images, lambda indices: None, lambda indices: None)
    try:
        yield sut, qsl
    finally:
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)


def run_loadgen(system: System, images: int, settings: Any) -> dict[str, Any]:
    """Runs a test and returns the entries of LoadGen's detailed log, by their keys."""
    with tempfile.TemporaryDirectory() as folder, constructed(system, images) as (sut, qsl):
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        loadgen.StartTestWithLogSettings(sut, qsl, settings, log)
        lines = Path(folder, "mlperf_log_detail.txt").read_text().splitlines()
    entries = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith(":::MLLOG")]
    return {entry["key"]: entry["value"] for entry in entries}


def single_stream(seconds: float) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * seconds)
    settings.min_query_count = EARLY_STOPPING_CALLS
    return settings


def offline(seconds: float, samples: int, expected_rate: float) -> Any:
    """Configures one query of so many samples that it lasts `seconds`; LoadGen adds a tenth."""
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Offline
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * seconds)
    settings.min_query_count = samples
    settings.offline_expected_qps = expected_rate
    return settings


def binding_overhead(images: NDArray[np.uint8]) -> float:
    """Measures LoadGen's p50, in milliseconds, with an engine that does nothing."""
    nothing = np.zeros((1, 1), np.float32)
    log = run_loadgen(System(lambda frames: nothing, images, 1), len(images), single_stream(1.0))
    return float(log[_LATENCIES["p50_ms"]]) / 1e6


def ours(call: Any, seconds: float) -> Series:
    """Measures the same by our own rounds."""
    schedule = Schedule(seconds, EARLY_STOPPING_CALLS, rounds=_ROUNDS)
    return measure_rounds({"": call}, schedule, lambda done, rounds: None).series[""]


def turn(
    engine: Engine, images: NDArray[np.uint8], batch: int, seconds: float, samples: int
) -> tuple[Numbers, Numbers]:
    """Takes our numbers and LoadGen's, one after the other."""
    frames = np.resize(images, (batch, *images.shape[1:]))
    alone = ours(lambda: engine(images[:1]), seconds)
    latencies = [e.value for e in percentiles(alone, (50, 90, 99))]
    numbers = dict(zip(("p50_ms", "p90_ms", "p99_ms"), latencies, strict=True))
    numbers["mean_ms"] = float(alone.calls.mean())
    log = run_loadgen(System(engine, images, 1), len(images), single_stream(seconds))
    theirs = {name: float(log[key]) / 1e6 for name, key in _LATENCIES.items()}
    rate = throughput(ours(lambda: engine(frames), seconds), batch).value
    log = run_loadgen(System(engine, images, batch), len(images), offline(seconds, samples, rate))
    numbers["samples_per_s"] = rate
    theirs["samples_per_s"] = float(log["result_samples_per_second"])
    return numbers, theirs


def compare(
    engine: Engine, images: NDArray[np.uint8], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Returns a row: both numbers and their ratios, medians over the turns."""
    seconds = MLPERF_SECONDS if arguments.official else arguments.seconds
    samples = OFFICIAL_SAMPLES if arguments.official else 1
    turns = [
        turn(engine, images, arguments.batch, seconds, samples) for _ in range(arguments.repeats)
    ]
    return {
        "precision": engine.info.precision,
        "backend": engine.info.backend,
        "ours": {key: statistics.median(t[0][key] for t in turns) for key in turns[0][0]},
        "loadgen": {key: statistics.median(t[1][key] for t in turns) for key in turns[0][0]},
        "loadgen_to_ours": {
            key: statistics.median(t[1][key] / t[0][key] for t in turns) for key in turns[0][0]
        },
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", nargs="+", default=[])
    parser.add_argument("--backend", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--official", action="store_true", help="MLPerf's minimums")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    bundle = Bundle.open(arguments.bundle)
    candidates = list_runnable(
        Deployment(bundle), arguments.precision, arguments.backend
    ).candidates
    versions = {c.backend.name: c.backend.version() for c in candidates}
    machine, watch = describe_machine(versions.items()), InterferenceWatch()
    overhead = binding_overhead(bundle.golden().images)
    print(f"LoadGen's binding adds {1e3 * overhead:.0f} us to a query")
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        with Engine.load(arguments.bundle, candidate.precision, candidate.backend.name) as engine:
            rows.append(compare(engine, bundle.golden().images, arguments))
        ratios = ", ".join(f"{k} {v:.3f}" for k, v in rows[-1]["loadgen_to_ours"].items())
        print(f"{candidate}: LoadGen's by ours: {ratios}", flush=True)
        result = {
            "model": bundle.manifest.name,
            "settings": {k: v for k, v in vars(arguments).items() if k != "bundle"},
            "binding_overhead_ms": overhead,
            "machine": asdict(machine),
            "interference": asdict(watch.read()),
            "rows": rows,
        }
        OUT.write_text(json.dumps(result, indent=2) + "\n")  # what follows takes minutes


if __name__ == "__main__":
    main()
