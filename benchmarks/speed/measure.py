"""All contenders on one model, in turns.

Every contender has a process of its own. They are asked one after the other, in an order drawn
anew for each round, so that drift, heat and whatever else the machine does affect all alike; those
that are not asked are blocked on a read. Batch sizes come one after the other: an engine for each
at once would take too much memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_edge.export.progress import Display, Update
from vit_edge.runtime.outputs import LOGITS, OutputSpec, compare_output, spread

from ..environments import python_of
from .contenders import REFERENCE, Contender
from .intervals import latency, medians
from .openers import Job
from .process import RefusedError, WorkerProcess
from .subject import Subject

_OPEN_S, _TIME_S = 420.0, 120.0
"""After which a contender is refused: for opening, and for one round."""
_PAUSE_S = 0.06
"""Before each turn: threads of the one before spin on, waiting for more work. Measured: ONNX
Runtime's for 40 ms, PyTorch's for 7, OpenVINO's for 1.
"""


@dataclass(frozen=True)
class Effort:
    """Amount of measuring: batch sizes, rounds, and seconds of a round."""

    batches: tuple[int, ...]
    rounds: int
    round_s: float


@dataclass
class Entry:
    """A contender's part in a run; `rounds` has the milliseconds of every round by batch."""

    contender: Contender
    problem: str | None
    process: WorkerProcess | None
    rounds: dict[int, list[list[float]]]
    open_s: float = 0.0
    accuracy: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        c = self.contender
        return {
            "contender": c.name, "type": c.type, "is_ours": c.is_ours,
            "problem": self.problem, "open_s": round(self.open_s, 1), "accuracy": self.accuracy,
            "batches": {str(b): _summary(rounds) for b, rounds in self.rounds.items() if rounds},
        }  # fmt: skip


def run(
    subject: Subject,
    contenders: Sequence[Contender],
    effort: Effort,
    threads: int,
    probe: Callable[[], None],
    display: Display,
) -> dict[str, Any]:
    """Measures one model and returns its part of the report. `probe` has a turn of its own in each
    round.
    """
    subject.prepare(display)
    passes, memory = [], 0.0
    for batch in sorted(effort.batches):
        what = f"{subject.variant}, batch {batch}"
        with ExitStack() as processes:
            entries = []
            with display.stage(f"{what}: opening") as update:
                for index, contender in enumerate(contenders):
                    entries.append(_open(subject, contender, batch, threads, processes))
                    update(index + 1, len(contenders))
            if batch == max(effort.batches):
                with display.stage(f"{what}: accuracy"):
                    _judge(subject, entries, batch)
            memory = max(memory, sum(e.process.memory_mib() for e in entries if e.process))
            with display.stage(f"{what}: {effort.rounds} rounds") as update:
                rotate(entries, effort, probe, update)
        passes.append(entries)
    merged = [merge(parts) for parts in zip(*passes, strict=True)]
    for entry in merged:
        if entry.problem:
            display.note(f"{entry.contender.name}: {entry.problem}")
    return {
        "model": subject.variant,
        "memory_mib": round(memory),
        "rows": [entry.to_json() for entry in merged],
    }


def merge(parts: Sequence[Entry]) -> Entry:
    """Merges a contender's entries of all batch sizes; without accuracy there are no numbers."""
    problem = next((entry.problem for entry in parts if entry.problem), None)
    accuracy = next((entry.accuracy for entry in parts if entry.accuracy), None)
    rounds = {b: r if accuracy else [] for entry in parts for b, r in entry.rounds.items()}
    open_s = sum(entry.open_s for entry in parts)
    return Entry(parts[0].contender, problem, None, rounds, open_s, accuracy)


def _open(
    subject: Subject, contender: Contender, batch: int, threads: int, processes: ExitStack
) -> Entry:
    """Opens the contender for a batch size, or notes the reason of a refusal."""
    entry = Entry(contender, None, None, {batch: []})
    start = time.perf_counter()
    try:
        file, python = subject.file_of(contender), python_of(contender.environment, subject.cache)
        job = Job(
            subject.variant, str(subject.folder), contender.opener, contender.setting, str(file),
            threads,
        )  # fmt: skip
        log = subject.folder / f"{contender.slug}.log"
        process = processes.enter_context(WorkerProcess(python, job, log, subject.cache))
        process.ask(_OPEN_S, do="open", batch=batch)
        entry.process = process
    except (RefusedError, RuntimeError) as error:  # what a peer refuses is its row
        entry.problem = str(error).replace(f"{subject.folder}/", "")
    entry.open_s = time.perf_counter() - start
    return entry


def _judge(subject: Subject, entries: list[Entry], batch: int) -> None:
    """Measures every contender's accuracy against PyTorch fp32."""
    files: dict[str, Path] = {}
    for entry in entries:
        if entry.process is None:
            continue
        file = subject.folder / f"{entry.contender.slug}.npy"
        try:
            entry.process.ask(_TIME_S, do="logits", batch=batch, file=str(file))
        except RefusedError as error:
            _drop(entry, error)
            continue
        files[entry.contender.name] = file
    if REFERENCE not in files:
        raise RuntimeError(f"{REFERENCE} does not run, and nothing can be compared with it")
    reference = np.load(files[REFERENCE])
    for entry in entries:
        if entry.contender.name in files:
            output = OutputSpec("logits", LOGITS, (reference.shape[1],))
            logits = np.load(files[entry.contender.name])
            metrics = compare_output(logits, reference, output, None, spread(reference))
            entry.accuracy = {"cosine": metrics.cosine, "agreement": metrics.agreement}


def rotate(entries: list[Entry], effort: Effort, probe: Callable[[], None], update: Update) -> None:
    """Fills the entries' rounds."""
    for index in range(effort.rounds):
        turns = [(e, batch) for e in entries if e.process for batch in e.rounds]
        random.Random(index).shuffle(turns)
        for entry, batch in turns:
            if entry.process is None:  # refused earlier in this round
                continue
            time.sleep(_PAUSE_S)
            try:
                answer = entry.process.ask(_TIME_S, do="time", batch=batch, seconds=effort.round_s)
            except RefusedError as error:
                _drop(entry, error)
                continue
            entry.rounds[batch].append(answer["ms"])
        time.sleep(_PAUSE_S)
        probe()
        update(index + 1, effort.rounds)


def _drop(entry: Entry, error: RefusedError) -> None:
    """Removes the numbers of a contender that failed half-way: its rounds match no others."""
    entry.problem, entry.process = str(error), None
    entry.rounds = {batch: [] for batch in entry.rounds}


def _summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Summarises a contender's rounds for the report, to a tenth of a microsecond."""
    numbers = {name: round(ms, 4) for name, ms in asdict(latency(rounds)).items()}
    return numbers | {"rounds_ms": [round(ms, 4) for ms in medians(rounds)]}
