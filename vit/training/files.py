"""Files that are written whole or not at all, whatever kills the program.

Unlike `runtime.files`, for streams of any size, and with at most one remainder of killed runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vit_edge.runtime.errors import InputError


def _partial(path: Path) -> Path:
    """Returns a fixed name: a killed run leaves one file at most, which the next run overwrites."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a stream whose content takes `path`'s place when the block ends without an error.

    Raises:
        InputError: if the file cannot be written (disk full, no permission).
    """
    partial = _partial(path)
    try:
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def _sync_folder(folder: Path) -> None:
    """Writes the folder to disk, which a new name needs to survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Makes the folder of `path` and tries to write there, before hours are spent.

    Raises:
        InputError: if `path` is a folder, or nothing can be written beside it.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file to write")
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
