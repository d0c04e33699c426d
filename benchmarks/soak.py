"""Soak test of many threads on one engine: right outputs, no deadlock, flat memory.

    python -m benchmarks.soak build/vit_digits [--threads 32] [--calls 100000]

Every thread calls with other batch sizes and compares every answer with the one that a single
thread got. Expected: no wrong answer, and resident memory that stays where it was after the first
tenth of the calls. Writes `benchmarks/results/soak.json`; exit status 1 if an answer was wrong.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime import Engine
from vit_edge.runtime.backends.cpu import cpu_name
from vit_edge.runtime.bundle import Bundle

OUT = Path(__file__).parent / "results" / "soak.json"
BACKENDS = ("onnxruntime", "openvino")
SIZES = (1, 1, 1, 2, 3, 8)
"""Batches that a thread cycles through: mostly single frames."""
_TOLERANCE = 1e-4


def resident_mib() -> float:
    """Returns the resident memory of this process. Source: proc(5), VmRSS."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Soak:
    """Threads that share a number of calls and count wrong outputs."""

    def __init__(self, engine: Engine, frames: NDArray[np.uint8], calls: int) -> None:
        self._engine, self._frames = engine, frames
        self._expected = engine(frames)
        self._left, self._lock = calls, threading.Lock()
        self.wrong = 0

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _work(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        turn = 0
        while self._take():
            size = SIZES[turn % len(SIZES)]
            turn += 1
            start = int(generator.integers(len(self._frames) - size))
            answer = self._engine(self._frames[start : start + size])
            expected = self._expected[start : start + size]
            if answer.shape != expected.shape or np.abs(answer - expected).max() > _TOLERANCE:
                with self._lock:
                    self.wrong += 1

    def run(self, threads: int) -> None:
        workers = [threading.Thread(target=self._work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def soak(bundle: Path, backend: str, threads: int, calls: int) -> dict[str, Any]:
    """Returns a row: wrong outputs, memory after a tenth of the calls and at the end."""
    frames = Bundle.open(bundle).golden().images
    with Engine.load(bundle, "fp32", backend) as engine:
        start = time.perf_counter()
        warm = Soak(engine, frames, calls // 10)
        warm.run(threads)
        after_warm_up = resident_mib()
        rest = Soak(engine, frames, calls - calls // 10)
        rest.run(threads)
        return {
            "backend": backend,
            "version": engine.info.version,
            "threads": threads,
            "calls": calls,
            "wrong": warm.wrong + rest.wrong,
            "seconds": round(time.perf_counter() - start, 1),
            "resident_mib_after_warm_up": round(after_warm_up, 1),
            "resident_mib_at_the_end": round(resident_mib(), 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--calls", type=int, default=100_000)
    arguments = parser.parse_args()
    rows = []
    for backend in BACKENDS:
        rows.append(soak(arguments.bundle, backend, arguments.threads, arguments.calls))
        print(rows[-1], flush=True)
    result = {"machine": cpu_name(), "python": platform.python_version(), "rows": rows}
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
