"""Images in Parquet files: their paths, their encoded bytes, or Hugging Face's struct of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, InputError, first_line, install_command
from .listing import Item, as_text, digest_of

if TYPE_CHECKING:
    import pyarrow as pa

STRUCT, BYTES, PATH = "bytes and path", "bytes", "path"
"""Contents that a column may have: Hugging Face's struct, encoded images, or names of files."""
_PATHS = "path"
"""Column that names images which are given as bytes, where there is one."""
_ROWS_AT_ONCE = 64


def require_pyarrow() -> Any:
    """The module `pyarrow`, with its Parquet reader. Raises BackendError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BackendError(f"`score` needs pyarrow: {install_command('score')}") from None
    return pyarrow


@dataclass(frozen=True)
class Column:
    """The column of images.

    Attributes:
        name: Its name.
        holds: STRUCT, BYTES or PATH.
        paths: The column that names the images beside it; "" where there is none.
    """

    name: str
    holds: str
    paths: str = ""

    @property
    def read(self) -> list[str]:
        """Names of the columns that are read."""
        return [self.name, *([self.paths] if self.paths else [])]


@dataclass(frozen=True)
class Span:
    """Rows of a file from `first` up to, and without, `stop`."""

    file: str
    first: int
    stop: int


@dataclass(frozen=True)
class ParquetPart:
    """Part of a `ParquetListing`, from index `start` on; `base` is in front of relative paths."""

    start: int
    spans: tuple[Span, ...]
    column: Column
    base: str

    def items(self) -> Iterator[Item]:
        index = self.start
        for span in self.spans:
            try:
                for row, values in _read_rows(span, self.base, self.column.read):
                    yield self._item(index, f"{span.file}#{row}", values)
                    index += 1
            except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
                raise InputError(f"{span.file} cannot be read ({first_line(error)})") from None

    def _item(self, index: int, place: str, row: dict[str, Any]) -> Item:
        value = row[self.column.name]
        if self.column.holds == STRUCT:
            value = value or {}
            data, path = value.get("bytes"), value.get("path")
        elif self.column.holds == BYTES:
            data, path = value, row.get(self.column.paths)
        else:
            data, path = None, value
        content = data if data is not None else None if path is None else Path(self.base, path)
        return Item(index, as_text(path or place), content)


@dataclass(frozen=True)
class ParquetListing:
    """The rows of Parquet files. See `Listing`.

    Attributes:
        source: See `Listing`.
        files: Path and number of rows of each, in order.
        images: The column of images.
        base: Folder, in full, that relative paths are relative to.
    """

    source: str
    files: tuple[Span, ...]
    images: Column
    base: str

    @property
    def column(self) -> str:
        return self.images.name

    def __len__(self) -> int:
        return sum(file.stop for file in self.files)

    @property
    def digest(self) -> str:
        rows = (f"{file.file}:{file.stop}" for file in self.files)
        return digest_of((self.source, self.base, *self.images.read, *rows))

    def part(self, start: int, stop: int) -> ParquetPart:
        spans, before = [], 0
        for file in self.files:
            first, last = max(start - before, 0), min(stop - before, file.stop)
            if first < last:
                spans.append(Span(file.file, first, last))
            before += file.stop
        return ParquetPart(start, tuple(spans), self.images, self.base)


def list_parquet(data: Path, files: Sequence[Path], column: str | None) -> ParquetListing:
    """Lists the rows of Parquet files, of which only the footers are read.

    Raises:
        InputError: if a file cannot be read, has no such column, or there are no rows.
    """
    source = os.path.abspath(data)
    base = source if data.is_dir() else os.path.dirname(source)
    spans, images, first = list[Span](), None, files[0]
    for file in files:
        rows, schema = _read_footer(file)
        own = _find_column(schema, column, file)
        if images is None:
            images = own
        elif own != images:
            raise InputError(
                f"{file}: column {own.name} holds {own.holds}, in {first} {images.name} holds "
                f"{images.holds}: name one with --column, or take one of the files away"
            )
        spans.append(Span(os.path.relpath(file, base), 0, rows))
    if images is None or not any(span.stop for span in spans):
        raise InputError(f"{data} holds no rows")
    return ParquetListing(source, tuple(spans), images, base)


def _read_footer(file: Path) -> tuple[int, pa.Schema]:
    parquet = require_pyarrow().parquet
    try:
        with parquet.ParquetFile(file) as opened:
            return opened.metadata.num_rows, opened.schema_arrow
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable Parquet file ({first_line(error)})") from None


def _find_column(schema: pa.Schema, name: str | None, file: Path) -> Column:
    """Returns the column of that name; for None the only one of structs, or else of bytes, or else
    of paths.
    """
    columns = {field.name: holds for field in schema if (holds := _holds(field.type))}
    shown = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if name is not None:
        if name not in schema.names:
            raise InputError(f"{file} has no column {name!r}; its columns are {shown}")
        if name not in columns:
            raise InputError(
                f"{file}: column {name!r} holds {schema.field(name).type}, not encoded images, "
                f"paths or a struct of bytes and path; its columns are {shown}"
            )
        return _column(name, columns)
    for kind in (STRUCT, BYTES, PATH):
        names = [other for other, holds in columns.items() if holds == kind]
        if len(names) == 1:
            return _column(names[0], columns)
        if names:
            raise InputError(f"{file}: which of {', '.join(names)} has the images? Say --column")
    raise InputError(
        f"{file} has no column of encoded images, of paths or of structs of bytes and path; its "
        f"columns are {shown}"
    )


def _column(name: str, columns: dict[str, str]) -> Column:
    holds = columns[name]
    named = holds == BYTES and columns.get(_PATHS) == PATH
    return Column(name, holds, _PATHS if named else "")


def _holds(kind: pa.DataType) -> str | None:
    types = require_pyarrow().types
    if types.is_struct(kind):
        fields = {field.name: _holds(field.type) for field in kind}
        return STRUCT if fields.get("bytes") == BYTES and fields.get("path") == PATH else None
    if types.is_binary(kind) or types.is_large_binary(kind):
        return BYTES
    return PATH if types.is_string(kind) or types.is_large_string(kind) else None


def _read_rows(span: Span, base: str, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row of a span with its number; holds a few rows in memory, not a row group."""
    parquet = require_pyarrow().parquet
    with parquet.ParquetFile(Path(base, span.file), pre_buffer=False, buffer_size=1 << 20) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if start < span.stop and end > span.first:
                batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=columns)
                for batch in batches:
                    first = max(span.first - start, 0)
                    rows = batch.slice(first, max(span.stop - start - first, 0)).to_pylist()
                    yield from enumerate(rows, start + first)
                    start += batch.num_rows
                    if start >= span.stop:
                        return
            start = end
