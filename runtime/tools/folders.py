"""Folders that are written whole: made as a temporary sibling, and swapped in at once."""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def recover(out: Path, mark: str) -> None:
    """Undoes what a killed process left: an aside folder goes back, temporary folders go.

    Args:
        out: A folder that `swap_in` makes.
        mark: A file that each such folder has: one without it is somebody else's and stays.
    """
    aside = _aside(out)
    if (aside / mark).is_file():
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, out)
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.new-????????"):
        with _held(leftover) as free:
            if free:
                shutil.rmtree(leftover, ignore_errors=True)


def _aside(out: Path) -> Path:
    return out.parent / f".{out.name}.previous"


@contextmanager
def sibling(out: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    folder.chmod(0o755)
    try:
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Holds a folder as in use; yields False if another process does, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; False if another process has it. A file
    system without locks does without.

    Source: flock(2); a killed process holds nothing.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def swap_in(folder: Path, out: Path, exchange: Callable[[Path, Path], bool] | None = None) -> None:
    """Makes `folder` be `out`, on disk; the old one is gone afterwards.

    Args:
        folder: The new content, in a `sibling`.
        out: Where it goes.
        exchange: Exchanges two folders in one step and returns False if it cannot; None is
            Linux's own way.
    """
    _sync(folder)
    if not out.exists():
        os.rename(folder, out)
    elif not (exchange or _exchange)(folder, out):
        os.rename(out, _aside(out))  # a kill between these two lines is mended by `recover`
        os.rename(folder, out)
        shutil.rmtree(_aside(out), ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two folders in one step.

    Source: renameat2(2). False where the file system cannot.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(
        renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0
    )


def _sync(folder: Path) -> None:
    """Flushes to disk: a power cut after the swap must not leave empty files."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
