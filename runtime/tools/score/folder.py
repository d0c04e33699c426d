"""The folder that a run fills: a record of the run, a file for each range of images, and a mark at
the end.

A file appears under its name once all its rows are on the disk: what is done is known from the
names alone, and a run that was killed goes on with the files that are missing.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import InputError, first_line
from ...files import replacing_durably, write_durably
from ...schema import encode
from ..folders import try_lock
from .columns import ERROR, NAMES, RUN
from .parquet import require_pyarrow
from .record import READABLE, RECORD, RunRecord, read_record, require_same

if TYPE_CHECKING:
    import pyarrow as pa

SUCCESS = "_SUCCESS"
_LOCK = ".lock"
_GROUP_BYTES = 64 << 20
"""Bytes of outputs that are held in memory before they are written as a row group."""
_TEMPORARY = re.compile(r"\.(part-\d+-of-\d+\.parquet|_score\.json|_SUCCESS)\..+|\.attempts-\d+")


@dataclass(frozen=True)
class Shards:
    """The files of a run: each has `rows` images, the last what is left of `total`.

    Attributes:
        folder: Where they lie.
        total: Number of images.
        rows: See above.
        run: `RunRecord.digest`.
    """

    folder: Path
    total: int
    rows: int
    run: str

    def __len__(self) -> int:
        return -(-self.total // self.rows)

    def path(self, number: int) -> Path:
        width = max(5, len(str(len(self))))  # so that names sort as their rows do
        return self.folder / f"part-{number:0{width}}-of-{len(self):0{width}}.parquet"

    def attempts(self, number: int) -> Path:
        """File with a byte for each time that a shard was begun on a cluster and not finished."""
        return self.folder / f".attempts-{number:05}"

    def range(self, number: int) -> tuple[int, int]:
        """First image of a shard, and the one behind its last."""
        return number * self.rows, min((number + 1) * self.rows, self.total)

    def failed(self, number: int) -> int:
        """Counts the rows with an error of a complete shard, from its footer.

        Raises:
            InputError: if it is damaged or of another run.
        """
        path, (start, stop) = self.path(number), self.range(number)
        remedy = "remove it, and the next run makes it again"
        try:
            metadata = require_pyarrow().parquet.read_metadata(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}): {remedy}") from None
        run = (metadata.metadata or {}).get(RUN.encode(), b"").decode(errors="replace")
        if run != self.run or metadata.num_rows != stop - start:
            raise InputError(f"{path} is not what this run wrote: {remedy}")
        column = metadata.schema.names.index(ERROR)
        groups = [metadata.row_group(i).column(column) for i in range(metadata.num_row_groups)]
        return sum(group.num_values - group.statistics.null_count for group in groups)


@contextmanager
def writing(shards: Shards, number: int, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Writes a shard, which appears whole when the block ends; a block that fails leaves none.

    Yields:
        The function that adds rows.

    Raises:
        InputError: if it cannot be written.
    """
    arrow = require_pyarrow()
    pending = list[Any]()
    path = shards.path(number)

    with _clear_errors(path), replacing_durably(path, READABLE) as stream:
        # Dictionaries make columns of floats larger, and twenty times as slow to write.
        repeated = [f"{f.name}.list.element" for f in schema if f.name.endswith(NAMES)]
        options = {"compression": "zstd", "use_dictionary": repeated}
        with arrow.parquet.ParquetWriter(stream, schema, **options) as writer:

            def flush() -> None:
                writer.write_table(arrow.concat_tables(pending))
                pending.clear()

            def add(table: pa.Table) -> None:
                pending.append(table)
                if sum(table.nbytes for table in pending) >= _GROUP_BYTES:
                    flush()

            yield add
            if pending:
                flush()


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Makes one clear error of what keeps a file from being written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        remedy = "free some space and " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise InputError(
            f"{path} cannot be written ({reason}); the files before it are whole: {remedy}run the "
            "same command again, and it goes on behind them"
        ) from None


class Counts(NamedTuple):
    """Rows of a complete run, those with an error, and files."""

    rows: int
    failed: int
    files: int


class ScoreFolder:
    """A run's folder, held by this process.

    Attributes:
        path: Where it is.
        record: The run.
        shards: Its files.
        done: Rows with an error of each file that is complete, by the file's number.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path, self.record = path, record
        self.shards = Shards(path, record.images, record.rows, record.digest)
        self._require_own_files()
        numbers = [n for n in range(len(self.shards)) if self.shards.path(n).exists()]
        self.done = {number: self.shards.failed(number) for number in numbers}

    @classmethod
    @contextmanager
    def open(cls, path: Path, record: RunRecord) -> Iterator[ScoreFolder]:
        """Begins a run in a folder, which is made where it is missing, or goes on with it.

        Raises:
            InputError: if another run began there, one is under way, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_held(path / _LOCK))
                _begin(path, record)
                folder = cls(path, record)
                if folder.missing:
                    (path / SUCCESS).unlink(missing_ok=True)
            except OSError as error:
                reason = error.strerror or first_line(error)
                raise InputError(
                    f"{error.filename or path} cannot be written ({reason}): give --out a folder "
                    "that can"
                ) from None
            yield folder

    @property
    def missing(self) -> list[int]:
        """Numbers of the files that are not complete."""
        return [number for number in range(len(self.shards)) if number not in self.done]

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields ranges of images, as long as they can be, whose files are missing."""
        start = stop = 0
        for number in self.missing:
            first, last = self.shards.range(number)
            if first != stop:
                if start < stop:
                    yield start, stop
                start = first
            stop = last
        if start < stop:
            yield start, stop

    def finish(self) -> Counts:
        """Marks the run as complete, once every file is; returns what the mark says.

        Raises:
            InputError: if a file is missing or damaged.
        """
        counts = [self.shards.failed(number) for number in range(len(self.shards))]
        summary = Counts(self.record.images, sum(counts), len(counts))
        with _clear_errors(self.path / SUCCESS):
            text = json.dumps(summary._asdict(), indent=2) + "\n"
            write_durably(self.path / SUCCESS, text.encode(), READABLE)
        return summary

    def _require_own_files(self) -> None:
        own = {self.shards.path(number).name for number in range(len(self.shards))}
        for name in sorted(os.listdir(self.path)):
            if name.endswith(".parquet") and name not in own:
                raise InputError(
                    f"{self.path / name} is not of this run, and readers would take it for rows: "
                    "take it away, or give --out another folder"
                )


def _begin(path: Path, record: RunRecord) -> None:
    """Writes the record, or compares it with the one that is there; removes what a killed run left
    half written.
    """
    before = read_record(path)
    if before is None:
        write_durably(path / RECORD, encode(record).encode(), READABLE)
    else:
        require_same(path, before, record)
    for name in os.listdir(path):
        if _TEMPORARY.fullmatch(name):
            (path / name).unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Holds a lock file; a file system without locks does without. Raises InputError if another
    process holds it.

    Source: flock(2); a killed process holds nothing.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(descriptor):
            raise InputError(
                f"another `vit-edge score` is writing to {path.parent}: wait for it, or give "
                "--out another folder"
            )
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
