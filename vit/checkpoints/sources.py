"""Sources of weights: a row for each kind of file, folders, and the hub."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from vit_edge.runtime.errors import InputError

from .canonical import to_canonical
from .checkpoint import Checkpoint, RawCheckpoint
from .folder import read_folder
from .formats import PREFIXES, fetch, is_hub_name, read_npz, read_safetensors
from .pickles import read_pickle

SOURCES: dict[str, Callable[[Path], RawCheckpoint]] = {
    ".safetensors": read_safetensors,
    ".pth": read_pickle,
    ".pt": read_pickle,
    ".bin": read_pickle,
    ".ckpt": read_pickle,
    ".tar": read_pickle,
    ".npz": read_npz,
}

_OTHERS = {
    ".onnx": "give it with --onnx",
    ".engine": "an engine cannot be exported again: give the weights that it was built from",
    ".plan": "an engine cannot be exported again: give the weights that it was built from",
    ".h5": "export the model to ONNX (tf2onnx) and give it with --onnx",
    ".keras": "export the model to ONNX (tf2onnx) and give it with --onnx",
    ".tflite": "export the model it was made from to ONNX and give it with --onnx",
    ".msgpack": "load it in Flax and save its arrays as an .npz, or export to ONNX",
    ".gguf": "it is quantised: give the weights that it was made from",
}
"""Suffixes of files that other programs write, and what to do."""


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


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Reads a checkpoint by its file's suffix, or by its content where that says nothing; or a
    folder.

    Args:
        path: A file, a folder, or a name of the hub.
        key: Of several copies of the weights, or several heads, the one to take: a part of the
            path of its tensors. None takes what is usual.

    Raises:
        InputError: if it is missing, damaged, of an unknown kind, no ViT, not of tensors alone, or
            holds nothing called `key`.
    """
    path = locate(str(path))
    if path.is_dir():
        return to_canonical(read_folder(path), key)
    return to_canonical(_reader(path)(path), key)


def _reader(path: Path) -> Callable[[Path], RawCheckpoint]:
    suffix = path.suffix.lower()
    if suffix in SOURCES:
        return SOURCES[suffix]
    if suffix in _OTHERS:
        raise InputError(f"{path} is no checkpoint of PyTorch or JAX: {_OTHERS[suffix]}")
    with path.open("rb") as stream:
        start = stream.read(9)
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        return read_npz if any(name.endswith(".npy") for name in names) else read_pickle
    if start[:1] == b"\x80":  # a pickle's first byte
        return read_pickle
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30:
        return read_safetensors
    raise InputError(
        f"{path} has the unknown suffix {path.suffix!r}, and its content is of no known kind: give "
        f"one of {', '.join(SOURCES)}"
    )
