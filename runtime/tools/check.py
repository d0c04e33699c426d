"""One row for each precision, backend and batch size: what `check` and `compare` measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..backends import BACKENDS, Session, find_backend
from ..bundle import Bundle
from ..candidates import Candidate, list_candidates, load_or_build, open_blob
from ..device_cache import DeviceCache
from ..errors import BackendError, EngineError
from ..frames import run_frames
from ..golden import GoldenSamples
from ..manifest import FEATURES
from ..metrics import Metrics
from ..selfcheck import miss, run_golden
from .display import mebibytes, percent, say

OK, FAILED = "ok", "failed"


@dataclass(frozen=True)
class Row:
    """One precision on one backend, as `--json` prints it. None where nothing was measured."""

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


@dataclass(frozen=True)
class Measurement:
    """Rows for all that runs here, and why the other backends do not, by their names."""

    rows: tuple[Row, ...]
    not_run: dict[str, str]

    @property
    def good(self) -> bool:
        return all(row.status == OK for row in self.rows)


class Runnable(NamedTuple):
    """What runs here, and why the other backends do not, by their names."""

    candidates: list[Candidate]
    not_run: dict[str, str]


def list_runnable(
    bundle: Bundle, precisions: Sequence[str] = (), backends: Sequence[str] = ()
) -> Runnable:
    """What of the bundle runs here, of these precisions and backends; none named is all of them.

    Raises:
        InputError: if the bundle has no such precision, or there is no such backend.
        BackendError: if nothing of it can run here.
    """
    for precision in precisions:
        list_candidates(bundle.manifest, precision, None)
    asked = {name: find_backend(name) for name in backends or BACKENDS}
    problems = {name: backend.run_problem() for name, backend in asked.items()}
    not_run = {name: problem for name, problem in problems.items() if problem}
    candidates = [
        candidate
        for candidate in list_candidates(bundle.manifest, None, None)
        if candidate.backend.name in asked.keys() - not_run.keys()
        and candidate.precision in (precisions or (candidate.precision,))
    ]
    if not candidates:
        reasons = "; ".join(not_run.values()) or "no graph for these precisions and backends"
        raise BackendError(f"nothing in {bundle.path} can run here: {reasons}")
    return Runnable(candidates, not_run)


def check_bundle(bundle: Bundle) -> Measurement:
    """Checks all that runs here on the golden samples.

    Raises:
        BackendError: if nothing in the bundle can run here.
    """
    runnable = list_runnable(bundle)
    return Measurement(tuple(_checked_rows(bundle, runnable.candidates)), runnable.not_run)


def _checked_rows(bundle: Bundle, candidates: list[Candidate]) -> Iterator[Row]:
    golden, cache = bundle.golden(), DeviceCache.of(bundle.digest)
    for candidate in candidates:
        say(f"measuring {candidate} ...")
        try:
            opened = open_checked(candidate, bundle, golden, cache)
        except (BackendError, EngineError) as error:
            yield failed_row(candidate, error)
        else:
            opened.session.close()
            yield opened.row


def failed_row(candidate: Candidate, error: object) -> Row:
    """The row of what could not be opened or run."""
    return Row(candidate.precision, candidate.backend.name, f"{FAILED}: {error}")


class Opened(NamedTuple):
    """An engine that was opened and answered the golden samples, right or wrong (`row.status`)."""

    candidate: Candidate
    session: Session
    row: Row
    metrics: Metrics


def open_checked(
    candidate: Candidate, bundle: Bundle, golden: GoldenSamples, cache: DeviceCache
) -> Opened:
    """Opens an engine and runs the golden samples; the device remembers the outcome.

    Raises:
        BackendError, EngineError: if it cannot be built, opened or run.
    """
    spec = bundle.manifest.spec
    graph = bundle.manifest.precisions[candidate.precision].graphs[candidate.backend.graph]
    blob = load_or_build(candidate, bundle, cache)
    session, size = open_blob(candidate, blob, bundle, cache), blob.size
    del blob
    try:
        metrics = run_golden(lambda images: run_frames(session, spec, images), golden)
    except BaseException:
        session.close()
        raise
    problem = miss(metrics, graph)
    if problem is None:
        cache.mark_right(candidate.key(), metrics.rms_error)
    else:
        cache.mark_refused(candidate.key(), problem)
    row = Row(
        candidate.precision,
        candidate.backend.name,
        OK if problem is None else f"{FAILED}: {problem}",
        top1=metrics.top1,
        reference_top1=metrics.reference_top1,
        agreement=None if spec.output_name == FEATURES else metrics.agreement,
        cosine=metrics.cosine,
        bytes=size,
    )
    return Opened(candidate, session, row, metrics)


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
    return str(value) if column == "batch" else f"{value:.3f}"
