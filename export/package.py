"""Writes a bundle: whole, hashed, and swapped in at once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST, FileEntry, Manifest, digest_line
from vit_edge.runtime.schema import encode
from vit_edge.runtime.tools.folders import sibling, swap_in

from .cache import file_sha256


def write_bundle(out: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Writes `files` and the manifest, with their hashes, as the bundle `out`, replacing the one
    that is there.

    Args:
        out: The bundle's folder.
        manifest: The manifest; its `files` are filled in here.
        files: Path inside the bundle -> the file that goes there; its content must not change.

    Raises:
        InputError: if `out` exists and is neither a bundle nor an empty folder.
        BundleError: if what was written does not read back.
    """
    require_replaceable(out)
    with sibling(out) as folder:
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
        swap_in(folder, out)
    return Bundle.open(out)


def _place(source: Path, target: Path) -> None:
    """Links the same file under a second name, where the file system allows it: engines are large.

    This project never writes into it. A change would damage the stage cache too, which notices it
    and makes the file again.
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
