"""`vit-edge check`: golden samples on all that runs here; the rows that `compare` shares."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from ..backends import BACKENDS, find_backend
from ..bundle import Bundle
from ..deployment import Candidate, Deployment, Opened, device_problems, run_problems
from ..errors import BackendError, EngineError
from ..manifest import EngineSpec
from ..outputs import Metrics
from .display import is_verbose, mebibytes, percent, print_table, say
from .measure.machine import Machine, describe_machine

_FIGURES = ("top1", "reference_top1", "agreement", "cosine")
COLUMNS = ("precision", "backend", *_FIGURES, "status")
_OUTPUT_COLUMNS = ("precision", "backend", "output", "kind", *_FIGURES, "rms_error")
OK, FAILED = "ok", "failed"


@dataclass(frozen=True)
class OutputRow:
    """One output of an engine. None where nothing was measured, or a number is not finite."""

    output: str
    kind: str
    top1: float | None
    reference_top1: float | None
    agreement: float | None
    cosine: float | None
    rms_error: float | None


@dataclass(frozen=True)
class Row:
    """One precision on one backend, as `--json` prints it. None where nothing was measured.

    Accuracies are those of the output that gives classes, or else of the first; of several outputs
    each has a row in `outputs`. `variant` is the one that `vit-edge tune` kept here; "" for the
    default.
    """

    precision: str
    backend: str
    status: str
    batch: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    top1: float | None = None
    reference_top1: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    bytes: int | None = None
    outputs: tuple[OutputRow, ...] = ()
    variant: str = ""


@dataclass(frozen=True)
class CheckReport:
    """Rows for all that runs here, and why the other backends do not, by their names."""

    rows: tuple[Row, ...]
    not_run: dict[str, str]

    @property
    def good(self) -> bool:
        return all(row.status == OK for row in self.rows)


class Runnable(NamedTuple):
    """Candidates that run here, and why the other backends do not, by their names."""

    candidates: list[Candidate]
    not_run: dict[str, str]


def list_runnable(
    deployment: Deployment, precisions: Sequence[str] = (), backends: Sequence[str] = ()
) -> Runnable:
    """Lists the (precision, backend) pairs that run on this machine. Empty filters select all.

    Raises:
        InputError: if the bundle has no such precision, or there is no such backend.
        BackendError: if nothing of it can run here.
    """
    for precision in precisions:
        deployment.candidates(precision)
    names = [find_backend(name).name for name in backends or BACKENDS]
    selected = [
        candidate
        for candidate in deployment.candidates()
        if candidate.backend.name in names
        and candidate.precision in (precisions or (candidate.precision,))
    ]
    not_run = run_problems(map(find_backend, names))
    candidates = [c for c in selected if c.backend.name not in not_run]
    unfit = device_problems(deployment, candidates)
    candidates = [c for c in candidates if str(c) not in unfit]
    not_run |= unfit
    if not candidates:
        reasons = "; ".join(not_run.values()) or "no graph for these precisions and backends"
        raise BackendError(f"nothing in {deployment.bundle.path} can run here: {reasons}")
    return Runnable(candidates, not_run)


def check_bundle(bundle: Bundle, threads: int | None = None) -> CheckReport:
    """Checks all that runs here on the golden samples.

    Args:
        bundle: The bundle.
        threads: CPU threads that compute; None is what suits the machine.

    Raises:
        BackendError: if nothing in the bundle can run here.
        InputError: if there cannot be so many threads.
    """
    deployment = Deployment(bundle, threads)
    runnable = list_runnable(deployment)
    return CheckReport(tuple(_check(deployment, runnable.candidates)), runnable.not_run)


def _check(deployment: Deployment, candidates: Sequence[Candidate]) -> Iterator[Row]:
    for candidate in candidates:
        say(f"measuring {candidate} ...")
        try:
            opened = deployment.open_checked(candidate)
        except (BackendError, EngineError) as error:
            yield failed_row(candidate, error)
        else:
            opened.session.close()
            yield checked_row(opened, deployment)


def failed_row(candidate: Candidate, error: object) -> Row:
    """Makes the row of an engine that could not be opened or run."""
    names = candidate.precision, candidate.backend.name
    return Row(*names, f"{FAILED}: {error}", variant=_variant(candidate))


def checked_row(opened: Opened, deployment: Deployment) -> Row:
    """Makes the row of an engine that ran all golden samples, right or wrong."""
    candidate, spec = opened.candidate, deployment.bundle.manifest.spec
    names = candidate.precision, candidate.backend.name
    row = judged_row(*names, opened.metrics, opened.problem, spec)
    return dataclasses.replace(row, bytes=opened.size, variant=_variant(candidate))


def judged_row(
    precision: str, backend: str, metrics: Mapping[str, Metrics], problem: str | None,
    spec: EngineSpec,
) -> Row:  # fmt: skip
    """Makes the row of golden samples that were compared, right or wrong (`problem`)."""
    first = metrics[(spec.classifier or spec.outputs[0]).name]
    return Row(
        precision,
        backend,
        OK if problem is None else f"{FAILED}: {problem}",
        top1=first.top1,
        reference_top1=first.reference_top1,
        agreement=first.agreement,
        cosine=first.cosine,
        outputs=_output_rows(metrics, spec),
    )


def _variant(candidate: Candidate) -> str:
    return "" if candidate.variant is None else candidate.variant.name


def tuned_notes(rows: Sequence[Row]) -> list[str]:
    """Says which rows are of variants that `vit-edge tune` kept here."""
    tuned = {f"{row.precision} on {row.backend}": row.variant for row in rows if row.variant}
    return [f"{name} is tuned here: {variant}." for name, variant in tuned.items()]


def _output_rows(metrics: Mapping[str, Metrics], spec: EngineSpec) -> tuple[OutputRow, ...]:
    """Makes a row for each of several outputs."""
    if len(spec.outputs) == 1:
        return ()
    rows = []
    for output in spec.outputs:
        m = metrics[output.name]
        error = m.rms_error if isfinite(m.rms_error) else None
        figures = (m.top1, m.reference_top1, m.agreement, m.cosine, error)
        rows.append(OutputRow(output.name, output.kind, *figures))
    return tuple(rows)


def row_cells(row: Row, columns: Sequence[str]) -> list[str]:
    """A row as text for a table."""
    return [cell(column, getattr(row, column)) for column in columns]


def cell(column: str, value: float | int | str | None) -> str:
    """A value as text; the column says what it is."""
    if value is None or isinstance(value, str):
        return value or "-"
    if column in ("top1", "reference_top1", "agreement"):
        return percent(value)
    if column == "bytes":
        return mebibytes(int(value))
    if column == "cosine":
        return f"{value:.5f}"
    if column == "rms_error":
        return f"{value:.2g}"
    return str(value) if column == "batch" else f"{value:.3f}"


def print_outputs(rows: Sequence[Row]) -> None:
    """Prints a table with a line for each of several outputs of each engine."""
    lines = [
        [row.precision, row.backend, *(cell(c, getattr(o, c)) for c in _OUTPUT_COLUMNS[2:])]
        for row in rows
        for o in row.outputs
    ]
    if lines:
        print_table("outputs", [c.replace("_", " ") for c in _OUTPUT_COLUMNS], lines)


def print_machine(machine: Machine, not_run: Mapping[str, str]) -> None:
    """Prints the machine, and what cannot run on it; in full where that was asked for."""
    if is_verbose():
        for line in machine.details():
            print(line)
        for name, reason in not_run.items():
            print(f"not run: {name}: {reason}")
        return
    print(f"on {machine}")
    if not_run:
        print(f"not run: {', '.join(not_run)} (-v says why)")


def run_check(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    bundle.verify()
    measured = check_bundle(bundle, arguments.threads)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(measured), indent=2))
    else:
        names = [column.replace("_", " ") for column in COLUMNS]
        rows = [row_cells(row, COLUMNS) for row in measured.rows]
        print_table(f"golden samples of {bundle.manifest.name}", names, rows)
        print_outputs(measured.rows)
        for note in tuned_notes(measured.rows):
            print(f"note: {note}")
        versions = {row.backend: find_backend(row.backend).version() for row in measured.rows}
        print_machine(describe_machine(versions.items()), measured.not_run)
    return 0 if measured.good else 1
