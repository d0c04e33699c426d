"""A run of `vit-edge score`: what is asked for, and how it is done in one process."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_edge import __version__

from ...backends import find_backend
from ...backends.cpu import choose_threads
from ...bundle import Bundle
from ...engine import Engine, EngineInfo
from ...errors import InputError
from ...preprocess import require_pillow
from ..display import say
from .columns import Columns
from .folder import ScoreFolder, Shards
from .listing import Listing, list_images
from .parquet import require_pyarrow
from .progress import progress_of
from .record import RunRecord, read_record, require_same
from .scoring import BatchSettings, score_parts

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_BATCH = 32
"""Images of one call where nobody says: larger ones gain nothing on a CPU and little on a GPU."""
ROWS = 1024
"""Images of one file where nobody says: what a killed run loses at most."""


@dataclass(frozen=True)
class Request:
    """Scores asked for. Can be sent to another process.

    Attributes:
        bundle: The bundle's folder.
        data: Where the images are; see `list_images`.
        out: The folder to fill.
        precision, backend: None: what the run began with, or the best here.
        public_key: See `Engine.load`.
        threads: CPU threads that compute one call; None: all that this process may use; on Ray 1.
        workers: Threads that decode, by default as many; on Ray processes with an engine each, by
            default as many as the cluster has room for.
        batch: Images of one call; None: as many as the engine takes, up to `LARGEST_BATCH`.
        rows: Images of one file.
        top: Number of classes to name.
        column: The Parquet column with the images; None: the only one that can be.
    """

    bundle: Path
    data: Path
    out: Path
    precision: str | None = None
    backend: str | None = None
    public_key: Path | None = None
    threads: int | None = None
    workers: int | None = None
    batch: int | None = None
    rows: int = ROWS
    top: int = 5
    column: str | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "workers", "batch", "rows", "top"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"--{name} {number}: give at least 1")


@dataclass(frozen=True)
class ScoreSummary:
    """Result of a run.

    Attributes:
        out: The folder.
        rows, failed, files: Of the folder: rows, rows with an error, Parquet files.
        scored: Images that this run did; an earlier one did the rest.
        seconds: Those took: without loading the engine, but on Ray with what its processes take to
            start.
        precision, backend: Of all rows.
        engine: What ran; None on Ray, where several did.
    """

    out: str
    rows: int
    failed: int
    files: int
    scored: int
    seconds: float
    precision: str
    backend: str
    engine: EngineInfo | None = None

    @property
    def images_per_second(self) -> float | None:
        return self.scored / self.seconds if self.scored else None

    def fields(self) -> dict[str, Any]:
        return asdict(self) | {"images_per_second": self.images_per_second}


def load_engine(request: Request) -> Engine:
    """Loads what the request names."""
    return Engine.load(
        request.bundle, request.precision, request.backend, request.public_key, request.threads
    )


def prepare(request: Request) -> tuple[Bundle, Listing]:
    """Opens the bundle and lists the images, before anything costs time.

    Raises:
        BackendError: if pyarrow or Pillow is not installed.
        BundleError: if the bundle is missing or altered.
        InputError: if there are no images, or the folder lies among them.
    """
    require_pyarrow()
    require_pillow("`score`")
    bundle = Bundle.open(request.bundle, request.public_key)
    out, data = Path(os.path.realpath(request.out)), Path(os.path.realpath(request.data))
    if os.path.isdir(request.data) and out.is_relative_to(data):
        raise InputError(
            f"--out {request.out} lies in {request.data}, whose files are read: give another folder"
        )
    listing = list_images(request.data, request.column)
    column = f", column {listing.column}" if listing.column else ""
    say(f"{len(listing):,} images in {request.data}{column}")
    return bundle, listing


def make_record(
    request: Request, bundle: Bundle, listing: Listing, precision: str, backend: str
) -> RunRecord:
    """The record of a run with these, by which a later one is compared."""
    return RunRecord(
        bundle.manifest.name,
        bundle.digest,
        precision,
        backend,
        request.batch or min(LARGEST_BATCH, bundle.manifest.spec.max_batch),
        request.rows,
        request.top,
        listing.source,
        listing.column,
        len(listing),
        listing.digest,
        *versions(backend),
    )


def versions(backend: str) -> tuple[str, str]:
    """Versions of vit-edge and of the backend's library. Raises BackendError if it is missing."""
    return __version__, find_backend(backend).version()


def go_on(request: Request, bundle: Bundle, listing: Listing) -> Request:
    """Fills in the precision and backend that a run in `request.out` began with, and says so.

    Raises:
        InputError: if the folder was begun with something else, or is used for something else.
    """
    before = read_record(request.out)
    if before is None:
        return request
    precision, backend = request.precision or before.precision, request.backend or before.backend
    require_same(request.out, before, make_record(request, bundle, listing, precision, backend))
    say(f"{request.out} was begun with {precision} on {backend}: going on with it")
    return replace(request, precision=precision, backend=backend)


def make_columns(bundle: Bundle, record: RunRecord) -> tuple[Columns, pa.Schema]:
    """The columns of a run, and the schema of its files."""
    spec = bundle.manifest.spec
    columns = Columns(spec.outputs, spec.labelled, bundle.manifest.labels, record.top)
    facts = {
        "bundle": record.bundle,
        "bundle_sha256": record.bundle_sha256,
        "precision": record.precision,
        "backend": record.backend,
        "version": __version__,
        "run": record.digest,
    }
    return columns, columns.schema(facts)


def score(request: Request) -> ScoreSummary:
    """Scores all images of a request in this process.

    Raises:
        InputError: if the request is wrong, or another run fills the folder.
        VitEdgeError: as `Engine.load`.
    """
    bundle, listing = prepare(request)
    request = go_on(request, bundle, listing)
    chosen = request.precision is None or request.backend is None
    with load_engine(request) as engine:
        info = engine.info
        record = make_record(request, bundle, listing, info.precision, info.backend)
        columns, schema = make_columns(bundle, record)
        with ScoreFolder.open(request.out, record) as folder:
            say(f"{info}: {info.why}" if chosen else str(info))
            left = count_left(folder)
            parts = (listing.part(*run) for run in folder.runs())
            effort = BatchSettings(record.batch, request.workers or choose_threads(None))
            with progress_of(left) as progress:
                for step in score_parts(engine, parts, folder.shards, columns, schema, effort):
                    progress.add(step)
            counts = folder.finish()
    return ScoreSummary(
        str(request.out), *counts, scored=left, seconds=progress.seconds,
        precision=record.precision, backend=record.backend, engine=info,
    )  # fmt: skip


def count_left(folder: ScoreFolder) -> int:
    """Counts the images whose files are missing, and says how many are not."""
    left = sum(stop - start for start, stop in folder.runs())
    done = folder.record.images - left
    if done:
        say(f"{done:,} images are done in {folder.path}, {left:,} are left")
    return left


def open_shards(request: Request, record: RunRecord) -> Shards:
    """The files of a run, as another process writes them.

    Raises:
        InputError: if this process does not see the folder that the run began.
    """
    if read_record(request.out) != record:
        raise InputError(
            f"{request.out} on this machine is not the run's folder: --out, the images and the "
            "bundle have to lie where all machines of the cluster see them"
        )
    return Shards(request.out, record.images, record.rows, record.digest)
