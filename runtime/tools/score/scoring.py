"""From listed images to Parquet files: decoded ahead, run in batches, written file by file.

Batches never cross from one file to the next. So a file's rows are the same whether all files are
made in one go, after an interruption, or by several processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...engine import Engine
from .columns import ERROR, Columns
from .decode import Decoded, decode_ahead
from .folder import Shards, writing
from .listing import Item, ListingPart

if TYPE_CHECKING:
    import pyarrow as pa

_AHEAD = 2
"""Batches that are decoded while one computes and one waits."""


@dataclass(frozen=True)
class BatchSettings:
    """Sizes and threads that images are run with.

    Attributes:
        batch: Images of one call of the engine.
        workers: Threads that decode.
    """

    batch: int
    workers: int


@dataclass(frozen=True)
class Step:
    """Rows that were written, and how many of them have an error."""

    rows: int
    failed: int


@dataclass
class _Batch:
    """Images in order, of one shard. `frames` are of those that could be read."""

    shard: int
    images: list[Decoded] = field(default_factory=list)
    frames: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, image: Decoded) -> None:
        self.images.append(image)
        if image.frame is not None:
            self.frames.append(image.frame)


def score_parts(
    engine: Engine,
    parts: Iterable[ListingPart],
    shards: Shards,
    columns: Columns,
    schema: pa.Schema,
    effort: BatchSettings,
) -> Iterator[Step]:
    """Writes the shards that `parts` are of, each whole; yields after every batch.

    Args:
        engine: Runs the images.
        parts: Ranges of the listing that begin and end with a shard, in order.
        shards: Where the rows go.
        columns: What the rows have.
        schema: Of the files.
        effort: See `BatchSettings`.

    Raises:
        InputError: if the source can no longer be read, or a file cannot be written.
        EngineError: if the backend fails.
    """
    items = (item for part in parts for item in part.items())
    rows = _run(engine, items, shards, effort)
    for number, batches in groupby(rows, key=lambda row: row[0].shard):
        with writing(shards, number, schema) as write:
            for batch, outputs in batches:
                table = columns.table(schema, batch.images, outputs)
                write(table)
                yield Step(table.num_rows, table.num_rows - table[ERROR].null_count)


def _run(
    engine: Engine, items: Iterable[Item], shards: Shards, effort: BatchSettings
) -> Iterator[tuple[_Batch, Mapping[str, Any]]]:
    """Yields batches in order with their outputs by name, none where no image could be read."""
    waiting: deque[_Batch] = deque()
    images = decode_ahead(
        items, engine.preprocess, effort.workers, effort.batch * _AHEAD + effort.workers
    )
    batches = _batches(images, shards, effort.batch)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for batch in batches:
            waiting.append(batch)
            if not batch.frames:
                return  # its rows are not to wait for the next image that can be read
            yield np.stack(batch.frames)

    while True:
        for outputs in engine.stream(frames()):
            named = outputs if isinstance(outputs, Mapping) else {engine.output: outputs}
            yield waiting.popleft(), named
        if not waiting:
            return
        yield waiting.popleft(), {}


def _batches(images: Iterable[Decoded], shards: Shards, size: int) -> Iterator[_Batch]:
    """Cuts images to batches of `size` readable ones, and where a shard ends."""
    for number, members in groupby(images, key=lambda image: image.index // shards.rows):
        batch = _Batch(number)
        for image in members:
            batch.add(image)
            if len(batch.frames) == size:
                yield batch
                batch = _Batch(number)
        if batch.images:
            yield batch
