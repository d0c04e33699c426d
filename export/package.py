"""Writes a bundle: whole, hashed, and swapped in at once."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST, FileEntry, Manifest, digest_line
from vit_edge.runtime.schema import encode

from .cache import file_sha256

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_bundle(out: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Writes `files` and the manifest, with their hashes, as the bundle `out`, replacing the one
    that is there.

    Args:
        out: The bundle's folder.
        manifest: The manifest; its `files` are filled in here.
        files: Path inside the bundle -> the file that goes there; its content must not change.

    Raises:
        InputError: if `out` is something else than a bundle.
        BundleError: if what was written does not read back.
    """
    require_replaceable(out)
    with _sibling(out) as folder:
        entries = {}
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(source, target)
            entries[name] = FileEntry(file_sha256(target), target.stat().st_size)
        raw = encode(replace(manifest, files=entries)).encode()
        (folder / MANIFEST).write_bytes(raw)
        (folder / MANIFEST_DIGEST).write_bytes(digest_line(hashlib.sha256(raw).hexdigest()))
        Bundle.open(folder).verify()
        _sync(folder)
        _swap(folder, out)
    return Bundle.open(out)


def _place(source: Path, target: Path) -> None:
    """Links the same file under a second name, where the file system allows it: engines are large.

    Nothing of ours writes into it. A change would damage the stage cache too, which notices it and
    makes the file again.
    """
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def require_replaceable(out: Path) -> None:
    """Raises InputError if `out` exists and is neither a bundle nor an empty folder."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is not a folder: choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError(
            f"{out} is a folder with other things in it, not a bundle: choose another --out"
        )


def recover(out: Path) -> None:
    """Undoes what a killed export left: an aside bundle goes back, temporary folders go."""
    aside = _aside(out)
    if aside.is_dir() and not out.exists():
        os.rename(aside, out)
    for leftover in [aside, *out.parent.glob(f".{out.name}.new-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _aside(out: Path) -> Path:
    return out.parent / f".{out.name}.previous"


@contextmanager
def _sibling(out: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(folder: Path, out: Path, exchange: Callable[[Path, Path], bool] | None = None) -> None:
    """Makes `folder` be `out`; the old one is gone afterwards."""
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
