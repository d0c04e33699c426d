"""A run on a Ray cluster: a pool of processes with an engine each, fed by Ray Data.

A row of the dataset is a file to write. The process that gets it decodes the range's images, runs
them and writes the file itself, as a run in one process does, so that neither images nor outputs
travel. A process that dies is replaced, and its range is done anew: a file appears whole or not
at all, so every row is there once.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...backends import find_backend
from ...backends.cpu import choose_threads
from ...bundle import Bundle
from ...errors import BackendError, InputError, VitEdgeError, first_line, install_command
from ..display import is_verbose, say
from .folder import ScoreFolder
from .listing import Listing, ListingPart
from .progress import progress_of
from .record import RunRecord
from .run import (
    Request,
    ScoreSummary,
    count_left,
    go_on,
    load_engine,
    make_columns,
    make_record,
    open_shards,
    prepare,
    versions,
)
from .scoring import BatchSettings, Step, score_parts

LOCAL = "local"
"""Address of a cluster that is started on this machine, for one run."""
_REACHED_S = 10.0
"""Seconds in which a cluster has to be reached."""
_ATTEMPTS = 3
"""Times that a range is begun: Ray tries for ever, and images that end every process that decodes
them must not keep a cluster busy."""
_IN_FLIGHT = 2
"""Ranges that a process has: one that it works on, and the next."""


@dataclass(frozen=True)
class RangeJob:
    """All that a process of the pool needs.

    Attributes:
        request: With precision, backend and threads as they are used.
        record: Of the run.
        effort: See `BatchSettings`.
    """

    request: Request
    record: RunRecord
    effort: BatchSettings


class Scorer:
    """Process of the pool: loads an engine once and writes the files that it is given.

    Errors on purpose travel as values, because Ray would wrap them in its own.
    """

    def __init__(self, job: RangeJob) -> None:
        self._job, self._problem = job, ""
        try:
            bundle = Bundle.open(job.request.bundle, job.request.public_key)
            if bundle.digest != job.record.bundle_sha256:
                raise InputError(f"{job.request.bundle} on this machine is another bundle")
            driver, here = (job.record.vit_edge, job.record.library), versions(job.record.backend)
            if here != driver:
                raise InputError(
                    f"this machine has vit-edge {here[0]} and {job.record.backend} {here[1]}, the "
                    f"run {driver[0]} and {driver[1]}: install the same on all"
                )
            self._shards = open_shards(job.request, job.record)
            self._columns, self._schema = make_columns(bundle, job.record)
            self._engine = load_engine(job.request)
        except VitEdgeError as error:
            self._problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Writes the files `batch["number"]` of the parts `batch["part"]`, pickled; returns what
        there is in them, or the problem.
        """
        steps = list[Step]()
        try:
            for number, part in zip(batch["number"], batch["part"], strict=True):
                if not self._problem:
                    steps += self._write(int(number), pickle.loads(part))
        except (VitEdgeError, OSError) as error:
            self._problem = str(error)
        rows, failed = sum(step.rows for step in steps), sum(step.failed for step in steps)
        return {"rows": [rows], "failed": [failed], "problem": [self._problem]}

    def _write(self, number: int, part: ListingPart) -> list[Step]:
        attempts = self._shards.attempts(number)
        with attempts.open("ab") as stream:
            stream.write(b".")
            if stream.tell() > _ATTEMPTS:
                start, stop = self._shards.range(number)
                raise InputError(
                    f"{_ATTEMPTS} processes died one after the other while they had the images "
                    f"{start} to {stop - 1}: find the one that does it, and take it away"
                )
        steps = list(
            score_parts(
                self._engine, [part], self._shards, self._columns, self._schema, self._job.effort
            )
        )
        attempts.unlink(missing_ok=True)
        return steps


def score_on_ray(request: Request, address: str) -> ScoreSummary:
    """Scores all images of a request on the Ray cluster at `address`; "local" starts one on this
    machine for the time of the run.

    Where the request leaves precision or backend open, those that are best on this machine are used
    on all.

    Raises:
        BackendError: if Ray is not installed, or there is no cluster.
        InputError, VitEdgeError: as `score`.
    """
    ray = _require_ray()
    bundle, listing = prepare(request)
    request = replace(go_on(request, bundle, listing), threads=request.threads or 1)
    if not (request.precision and request.backend):
        with load_engine(request) as engine:
            precision, backend = engine.info.precision, engine.info.backend
            say(f"{precision} on {backend}: {engine.info.why}")
        request = replace(request, precision=precision, backend=backend)
    assert request.precision
    assert request.backend
    record = make_record(request, bundle, listing, request.precision, request.backend)
    with ScoreFolder.open(request.out, record) as folder:
        left, seconds = count_left(folder), 0.0
        if left:
            with _cluster(ray, address, request), progress_of(left) as progress:
                for step in _steps(ray, request, record, folder, listing):
                    progress.add(step)
                seconds = progress.seconds
        counts = folder.finish()
    return ScoreSummary(
        str(request.out), *counts, scored=left, seconds=seconds,
        precision=record.precision, backend=record.backend,
    )  # fmt: skip


def _require_ray() -> Any:
    """The module `ray`, with Ray Data. Raises BackendError if it is not installed."""
    # Neither a user's folder nor a device reports to anybody unless its owner asks for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendError(f"--ray needs Ray Data: {install_command('ray')}") from None
    return ray


@contextmanager
def _cluster(ray: Any, address: str, request: Request) -> Iterator[None]:
    """Connects to a cluster, or starts one, for the time of the block."""
    level = logging.WARNING if is_verbose() else logging.ERROR
    logging.getLogger("ray.data").setLevel(level)
    options: dict[str, Any] = {"log_to_driver": is_verbose(), "logging_level": level}
    if address == LOCAL:
        least = (request.workers or 0) * (request.threads or 1)
        options |= {"num_cpus": max(choose_threads(None), least), "include_dashboard": False}
    try:
        _reach(address)
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"there is no Ray cluster at {address} ({first_line(error)}): start one with `ray "
            "start --head`, or leave the address out"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError if nothing listens at `address`, HOST:PORT: Ray itself would try for ever."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), _REACHED_S).close()


def _steps(
    ray: Any, request: Request, record: RunRecord, folder: ScoreFolder, listing: Listing
) -> Iterator[Step]:
    """Yields what the processes have written, a file at a time.

    Raises:
        VitEdgeError: with the first problem of a process.
        BackendError: if Ray gives up.
    """
    on_gpu = find_backend(record.backend).graph == "gpu"
    there, threads = ray.cluster_resources(), request.threads or 1
    cores = int(there.get("CPU", 0))
    room = int(there.get("GPU", 0)) if on_gpu else cores // threads
    size = min(request.workers or max(room, 1), len(folder.missing))
    if size > room:
        kind = "GPUs" if on_gpu else f"times {threads} CPUs"
        say(f"{size} processes need {size} {kind}, the cluster has {there}: Ray waits for more")
    decoders = max(1, cores // size) if on_gpu else threads
    job = RangeJob(_absolute(request), record, BatchSettings(record.batch, decoders))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images, as in one process
    context.print_on_execution_start = False
    rows = [
        {"number": number, "part": pickle.dumps(listing.part(*folder.shards.range(number)))}
        for number in folder.missing
    ]
    scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Scorer,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=_IN_FLIGHT),
        num_cpus=decoders,
        num_gpus=1 if on_gpu else None,
    )
    try:
        for row in scored.iter_rows():
            if row["problem"]:
                raise VitEdgeError(row["problem"])
            yield Step(int(row["rows"]), int(row["failed"]))
    except ray.exceptions.RayError as error:
        raise BackendError(
            f"Ray gave up ({first_line(error)}); the files that are there are whole: the same "
            "command goes on behind them"
        ) from None


def _absolute(request: Request) -> Request:
    """The request as it reads in a process that runs in another folder."""
    key = request.public_key
    return replace(
        request,
        bundle=request.bundle.absolute(),
        out=request.out.absolute(),
        public_key=key if key is None else key.absolute(),
    )
