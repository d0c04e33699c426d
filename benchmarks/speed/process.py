"""Client of `benchmarks.speed.worker`: a contender's process, seen from outside."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .openers import Job


class RefusedError(Exception):
    """Raised when a contender refuses a request; the message is its reason."""


class WorkerProcess:
    """A contender's process; a context manager ends it."""

    def __init__(self, python: Path, job: Job, log: Path, cache: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.worker", json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(job.threads, cache),
        )
        self._answers = selectors.DefaultSelector()
        self._answers.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]

    def ask(self, limit_s: float, **question: Any) -> dict[str, Any]:
        """Returns the answer to `do=...`.

        Raises:
            RefusedError: with its reason; if the process ends, or does not answer in time, after
                which it is ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise RefusedError(self._ending()) from None
        if not self._answers.select(limit_s):
            process.kill()
            raise RefusedError(f"no answer after {limit_s:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise RefusedError(self._ending())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer

    def _ending(self) -> str:
        return f"its process ended with status {self._process.wait()}"

    def memory_mib(self) -> float:
        """Returns the process's current memory, shared pages counted in parts; 0 when it ended.

        Source: proc(5), smaps_rollup.
        """
        try:
            lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return 0.0
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))

    def close(self) -> None:
        self._answers.close()
        self._process.kill()
        with suppress(BrokenPipeError):  # of a question that it did not live to read
            self._process.communicate()
        self._log.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _environment(threads: int, cache: Path) -> dict[str, str]:
    """Sets OpenMP's threads to the common number, and keeps compiled code and our device cache with
    the benchmark's files.
    """
    kept = cache.absolute()
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "ORT_DISABLE_TELEMETRY": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"),
        "XDG_CACHE_HOME": str(kept / "xdg"),
    }
