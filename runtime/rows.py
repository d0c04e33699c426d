"""One row for each precision, backend and batch size: what `check` and `compare` measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .backends import BACKENDS
from .bundle import Bundle
from .candidates import Candidate, list_candidates, load_or_build, open_blob
from .device_cache import DeviceCache
from .display import mebibytes, percent, say
from .errors import BackendError, EngineError
from .frames import run_frames
from .golden import GoldenSamples
from .latency import THOROUGH, measure_latency
from .manifest import FEATURES
from .selfcheck import miss, run_golden

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


def measure_bundle(bundle: Bundle, batches: Sequence[int] | None) -> Measurement:
    """Measures all that runs here; without batch sizes only accuracy.

    Raises:
        BackendError: if nothing in the bundle can run here.
    """
    problems = {name: backend.run_problem() for name, backend in BACKENDS.items()}
    not_run = {name: problem for name, problem in problems.items() if problem}
    candidates = [
        candidate
        for candidate in list_candidates(bundle.manifest, None, None)
        if candidate.backend.name not in not_run
    ]
    if not candidates:
        raise BackendError(f"nothing in {bundle.path} can run here: {'; '.join(not_run.values())}")
    return Measurement(tuple(_rows(bundle, candidates, batches)), not_run)


def _rows(
    bundle: Bundle, candidates: list[Candidate], batches: Sequence[int] | None
) -> Iterator[Row]:
    golden, cache = bundle.golden(), DeviceCache.of(bundle.digest)
    for candidate in candidates:
        row = Row(candidate.precision, candidate.backend.name, OK)
        say(f"measuring {candidate} ...")
        try:
            yield from _measure(row, candidate, bundle, golden, cache, batches)
        except (BackendError, EngineError) as error:
            yield replace(row, status=f"{FAILED}: {error}")


def _measure(
    row: Row,
    candidate: Candidate,
    bundle: Bundle,
    golden: GoldenSamples,
    cache: DeviceCache,
    batches: Sequence[int] | None,
) -> Iterator[Row]:
    spec = bundle.manifest.spec
    graph = bundle.manifest.precisions[candidate.precision].graphs[candidate.backend.graph]
    blob = load_or_build(candidate, bundle, cache)
    session, size = open_blob(candidate, blob, bundle, cache), blob.size
    del blob
    try:
        metrics = run_golden(lambda images: run_frames(session, spec, images), golden)
        problem = miss(metrics, graph)
        if problem is None:
            cache.mark_right(candidate.key(), metrics.rms_error)
        else:
            cache.mark_refused(candidate.key(), problem)
        row = replace(
            row,
            status=OK if problem is None else f"{FAILED}: {problem}",
            top1=metrics.top1,
            reference_top1=metrics.reference_top1,
            agreement=None if spec.output_name == FEATURES else metrics.agreement,
            cosine=metrics.cosine,
            bytes=size,
        )
        if batches is None:
            yield row
        for batch in batches or ():
            frames = np.resize(golden.images, (batch, *spec.image_shape))
            latency = measure_latency(
                lambda f=frames: run_frames(session, spec, f),  # type: ignore[misc]
                THOROUGH,
            )
            if batch == 1 and problem is None:
                cache.store_latency(candidate.key(), latency.p50_ms)
            yield replace(
                row,
                batch=batch,
                p50_ms=latency.p50_ms,
                p90_ms=latency.p90_ms,
                p99_ms=latency.p99_ms,
                images_per_s=1e3 * batch / latency.p50_ms,
            )
    finally:
        session.close()


COLUMNS = (*(f.name for f in dataclasses.fields(Row) if f.name != "status"), "status")


def row_cells(row: Row, columns: Sequence[str] = COLUMNS) -> list[str]:
    """A row as text for a table."""
    return [_cell(column, getattr(row, column)) for column in columns]


def _cell(column: str, value: float | int | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if column in ("top1", "reference_top1", "agreement"):
        return percent(value)
    if column == "bytes":
        return mebibytes(int(value))
    if column == "cosine":
        return f"{value:.5f}"
    return str(value) if column == "batch" else f"{value:.3f}"
