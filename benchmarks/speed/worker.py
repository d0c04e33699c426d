"""Server process of one contender, which waits for questions.

    python -m benchmarks.speed.worker JOB

Speaks JSON, a line for each question and answer, on standard input and output; whatever libraries
print goes to standard error. Between questions it is blocked on a read and computes nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .openers import OPENERS, Job, Open, Opened

_MOST_RUNS, _LONGEST_REASON = 1000, 240


class Worker:
    """Answers `open`, `time` and `logits`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._images = np.load(Path(job.folder) / "evaluation.npy")
        self._open: Open | None = None
        self._opened: dict[int, tuple[Opened, Any]] = {}

    def open(self, batch: int) -> dict[str, Any]:
        """Opens the contender for a batch size and runs it once."""
        start = time.perf_counter()
        if self._open is None:
            self._open = OPENERS[self._job.opener](self._job)
        opened = self._open(batch)
        prepared = opened.prepare(self._images[:batch])
        opened.run(prepared)
        self._opened[batch] = opened, prepared
        return {"seconds": time.perf_counter() - start}

    def time(self, batch: int, seconds: float) -> dict[str, Any]:
        """Measures the latencies of a round in milliseconds.

        The first call warms caches and wakes threads: it counts only where it alone fills the
        round.
        """
        opened, prepared = self._opened[batch]
        return {"ms": time_round(lambda: opened.run(prepared), seconds)}

    def logits(self, batch: int, file: str) -> dict[str, Any]:
        """Writes the logits of all evaluation images."""
        opened, _ = self._opened[batch]
        batches = np.split(self._images, range(batch, len(self._images), batch))
        prepared = [opened.prepare(images) for images in batches]
        np.save(file, np.concatenate([opened.finish(opened.run(p)) for p in prepared]))
        return {}


def time_round(
    run: Callable[[], object],
    seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Times calls, in milliseconds, until `seconds` are over; drops the first if others follow."""
    times: list[float] = []
    spent, end = 0.0, 1e3 * seconds
    while spent < end and len(times) <= _MOST_RUNS:
        start = clock()
        run()
        times.append((clock() - start) / 1e6)
        spent += times[-1]
    return times[1:] or times


def serve(worker: Worker) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries is no answer
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(worker, question.pop("do"))(**question)
        except Exception as error:  # a contender's refusal is its result
            traceback.print_exc()
            answer = {"error": reason(error)}
        print(json.dumps(answer), file=answers)


def reason(error: Exception) -> str:
    """Returns the error's message, on one line that fits a document."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]


if __name__ == "__main__":
    serve(Worker(Job(**json.loads(sys.argv[1]))))
