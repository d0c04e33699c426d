"""Writes files whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PRIVATE = 0o600


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when the block ends, and is gone if it fails."""
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)  # neither a full disk nor Ctrl-C shall leave halves
        raise


def write_whole(path: Path, data: bytes, mode: int = _PRIVATE) -> None:
    """Writes `path`, whose folder is there. Raises OSError; what was there before stays then."""
    with _replacing(path, mode) as stream:
        stream.write(data)


def write_durably(path: Path, data: bytes) -> None:
    """As `write_whole`, and a power cut after it loses nothing."""
    with _replacing(path, _PRIVATE) as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name too must survive it
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, whose folder is there.

    Source: flock(2); the lock ends with the descriptor, also when the process is killed.

    Raises:
        OSError: if it cannot be opened or locked.
    """
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_if_possible(path: Path) -> Iterator[None]:
    """As `locked`, but goes on where the file system knows no locks, as some over networks."""
    descriptor = _open_lock(path)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
