"""The images to score, in a fixed order: of a folder, a text list of files, or Parquet files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import InputError
from ..image_sources import find_pictures, walk
from ..images import EXTENSIONS

PARQUET = (".parquet", ".pq")
_MAGIC = b"PAR1"
"""First bytes of a Parquet file. Source: Apache Parquet, "File Format"."""
_HEAD = 1 << 16
"""Bytes of a list that are looked at before it is read: a film is told from one by them."""


@dataclass(frozen=True)
class Item:
    """An image to score.

    Attributes:
        index: Its place in the listing, from 0.
        path: Names it in the outputs.
        content: Its file, or the bytes of one; None where a row of Parquet holds none.
    """

    index: int
    path: str
    content: Path | bytes | None


class ListingPart(Protocol):
    """A contiguous range of a listing. Can be sent to another process."""

    def items(self) -> Iterator[Item]:
        """Yields the images in order. Raises InputError if they can no longer be read."""


class Listing(Protocol):
    """The images of a source.

    Attributes:
        source: Where they are, in full.
        digest: SHA-256 in hex of which images there are, in order; not of what is in them.
        column: The Parquet column with the images; "" for files.
    """

    @property
    def source(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def column(self) -> str: ...
    def __len__(self) -> int: ...
    def part(self, start: int, stop: int) -> ListingPart:
        """The images from `start` up to, and without, `stop`."""


@dataclass(frozen=True)
class FilePart:
    """Part of a `FileListing`: files `names`, relative to `base`, from index `start` on."""

    start: int
    names: tuple[str, ...]
    base: str

    def items(self) -> Iterator[Item]:
        for index, name in enumerate(self.names, self.start):
            yield Item(index, as_text(name), Path(self.base, name))


@dataclass(frozen=True)
class FileListing:
    """Image files. See `Listing`.

    Attributes:
        source: See `Listing`.
        names: The files as the list has them; of a folder, as its name was given.
        base: Folder, in full, that relative names are relative to.
    """

    source: str
    names: tuple[str, ...]
    base: str
    column: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        return digest_of((self.source, *self.names))

    def part(self, start: int, stop: int) -> FilePart:
        return FilePart(start, self.names[start:stop], self.base)


def list_images(data: Path, column: str | None) -> Listing:
    """Lists the images at `data`, none of which is opened.

    Args:
        data: A folder of images, whose folders are looked into too; a text file with a path in each
            line, relative to the file's folder; a Parquet file, or a folder of those.
        column: The Parquet column with the images: encoded ones, their paths, or Hugging Face's
            struct of both; None where only one comes into question.

    Raises:
        InputError: if there are none, or `data` or `column` is not that.
        BackendError: if pyarrow is needed and not installed.
    """
    try:
        data.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"{data} cannot be read ({error.strerror})") from None
    if data.is_dir():
        tables = _parquet_files(data)
        if not tables:
            listing: Listing = FileListing(
                os.path.abspath(data), tuple(map(str, find_pictures(data))), os.getcwd()
            )
        elif image := _first_image(data):
            raise InputError(
                f"{data} holds Parquet files ({tables[0].name}) and images ({image.name}): name "
                "one kind"
            )
        else:
            return _list_parquet(data, tables, column)
    elif not data.exists():
        raise InputError(f"there is nothing at {data}: name a folder, a list or a Parquet file")
    elif not data.is_file():
        raise InputError(f"{data} is no folder and no regular file")
    elif data.suffix.lower() in PARQUET or _begins(data, _MAGIC):
        return _list_parquet(data, [data], column)
    elif data.suffix.lower() in EXTENSIONS:
        raise InputError(
            f"{data} is an image: name its folder, or use `vit-edge run` for a few images"
        )
    else:
        listing = _read_list(data)
    if column is not None:
        raise InputError(f"--column {column}: {data} is no Parquet file and has no columns")
    return listing


def _list_parquet(data: Path, files: list[Path], column: str | None) -> Listing:
    from .parquet import list_parquet  # loads pyarrow

    return list_parquet(data, files, column)


def _parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder and its folders, in order; hidden ones and those that begin
    with an underscore are passed over, as readers of Parquet do.
    """
    return [file for file in walk(folder, "._") if file.suffix.lower() in PARQUET]


def _first_image(folder: Path) -> Path | None:
    return next((file for file in walk(folder, "._") if file.suffix.lower() in EXTENSIONS), None)


def _begins(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None


def _read_list(file: Path) -> FileListing:
    try:
        with file.open("rb") as stream:
            data = stream.read(_HEAD)
            if b"\0" not in data:
                data += stream.read()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    if b"\0" in data:
        raise InputError(f"{file} is no folder, no Parquet file and no text with a path a line")
    text = data.decode("utf-8-sig", errors="surrogateescape")  # names are bytes on Linux
    names = tuple(line for line in text.split("\n") if line.strip())
    names = tuple(name.removesuffix("\r") for name in names)
    if not names:
        raise InputError(f"{file} lists no images: write one path a line")
    source = os.path.abspath(file)
    return FileListing(source, names, os.path.dirname(source))


def as_text(name: str) -> str:
    r"""Returns a file's name as UTF-8; bytes that are none are written as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def digest_of(names: Iterable[str]) -> str:
    """SHA-256 in hex of names in order."""
    state = hashlib.sha256()
    for name in names:
        state.update(os.fsencode(name) + b"\0")
    return state.hexdigest()
