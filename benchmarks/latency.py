"""Latency of several ONNX files side by side, batch 1, in ONNX Runtime and in OpenVINO.

    python -m benchmarks.latency onnxruntime|openvino JOB ANSWER

Runs in each runtime's own environment. Rounds are interleaved, so that whatever else the machine
does affects all files alike; the result is the median of the rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .peers.job import INPUT

_ROUNDS, _ROUND_S, _MOST = 25, 0.02, 200
_THREADS = 2

Run = Callable[[NDArray[np.uint8]], object]


def in_onnxruntime(file: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = _THREADS, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {INPUT: image})


def in_openvino(file: str) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": _THREADS, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    return lambda image: request.infer({0: image})


RUNTIMES: dict[str, Callable[[str], Run]] = {
    "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
}


def medians(runs: dict[str, Run], image: NDArray[np.uint8]) -> dict[str, float]:
    """Measures the median milliseconds of each."""
    rounds = interleave(runs, image, _ROUNDS)
    return {
        name: 1000 * statistics.median(map(statistics.mean, calls))
        for name, calls in rounds.items()
    }


def interleave(
    runs: dict[str, Run], images: NDArray[np.uint8], rounds: int
) -> dict[str, list[list[float]]]:
    """Measures the seconds of every call, round by round; the runs take turns."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    repeats = {name: _repeats(run, images) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append([_seconds(run, images) for _ in range(repeats[name])])
    return times


def _seconds(run: Run, images: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def _repeats(run: Run, image: NDArray[np.uint8]) -> int:
    """Returns the number of calls in a round."""
    run(image)
    return max(1, min(_MOST, round(_ROUND_S / _seconds(run, image))))


def main() -> None:
    runtime, job, answer = sys.argv[1:]
    asked = json.loads(Path(job).read_text())
    image = np.load(asked["images"])[:1]
    runs: dict[str, Run] = {}
    errors: dict[str, str] = {}
    for name, file in asked["files"].items():
        try:
            runs[name] = RUNTIMES[runtime](file)
            runs[name](image)
        except Exception as error:  # what a runtime refuses is its result
            runs.pop(name, None)
            errors[name] = str(error).splitlines()[0][:200]
    result = {"ms": medians(runs, image), "errors": errors}
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
