"""Sources of weights: a row for each kind of file, folders, and the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from vit_edge.runtime.errors import InputError

from .canonical import to_canonical
from .checkpoint import Checkpoint, RawCheckpoint
from .folder import read_folder
from .formats import read_npz, read_pickle, read_safetensors
from .hub import PREFIXES, fetch, is_hub_name

SOURCES: dict[str, Callable[[Path], RawCheckpoint]] = {
    ".safetensors": read_safetensors,
    ".pth": read_pickle,
    ".pt": read_pickle,
    ".bin": read_pickle,
    ".npz": read_npz,
}


def locate(weights: str) -> Path:
    """Returns the file or folder that `--weights` means; a hub's repository is fetched first.

    Raises:
        InputError: if there is none.
    """
    path = fetch(weights) if is_hub_name(weights) else Path(weights)
    if not path.exists():
        kinds = f"{', '.join(SOURCES)}, a folder, {' or '.join(PREFIXES)}"
        raise InputError(f"there is no checkpoint file at {path} (give one of {kinds})")
    return path


def checkpoint_sha256(path: Path) -> str:
    """Computes the SHA-256 in hex of a checkpoint file, or of a folder's files and their names."""
    state = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    for file in files:
        if path.is_dir():
            state.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint by its file's suffix, or a folder.

    Raises:
        InputError: if it is missing, damaged, of an unknown kind, no ViT, or not of tensors alone.
    """
    path = locate(str(path))
    if path.is_dir():
        return to_canonical(read_folder(path))
    suffix = path.suffix.lower()
    if suffix not in SOURCES:
        raise InputError(
            f"{path} has the unknown suffix {path.suffix!r}: give one of {', '.join(SOURCES)}"
        )
    return to_canonical(SOURCES[suffix](path))
