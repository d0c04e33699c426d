"""The stage cache: a stage whose inputs did not change is not run again.

A stage's key is a hash of all that goes in: our own sources, the tools' versions, the stage's name,
its options and the folders of the stages before it, whose names hold their keys. Its folder appears
whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vit_edge.runtime.errors import InputError

from .progress import Display, Update

TOOLS = (
    "numpy", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx", "safetensors", "scikit-learn", "pillow",
)  # fmt: skip
OUR_PACKAGES = ("calibration", "export", "runtime", "vit")

_HASHES = "hashes.json"

Make = Callable[[Path, Update], None]


def tool_versions() -> dict[str, str]:
    """The versions of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_digest() -> str:
    """SHA-256 of our own source files."""
    root, state = Path(__file__).parent.parent, hashlib.sha256()
    for package in OUR_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            state.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return state.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex, read in blocks."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.iterdir() if p.name != _HASHES)
    return {path.name: file_sha256(path) for path in files}


def _is_whole(folder: Path) -> bool:
    """Whether a stage's folder holds exactly what was written there."""
    try:
        return bool(json.loads((folder / _HASHES).read_text()) == _hashes(folder))
    except (OSError, ValueError):
        return False


def content_digest(folder: Path) -> str:
    """SHA-256 over all that a finished stage's folder holds."""
    return file_sha256(folder / _HASHES)


class StageCache:
    """Folders of finished stages, under one lock. Make one with `open_cache`."""

    def __init__(self, folder: Path, display: Display) -> None:
        self._folder, self._display = folder, display
        self._base = json.dumps([source_digest(), tool_versions(), platform.machine()])
        self._used: set[str] = set()

    def run(self, stage: str, inputs: Sequence[object], make: Make) -> Path:
        """The folder of `stage` for these inputs; `make(folder, update)` fills it if it is not
        there yet.

        Args:
            stage: Name, shown and part of the key.
            inputs: All that the result depends on: options (by their `repr`) and folders of other
                stages.
            make: Writes the results and reports its progress.
        """
        parts = [i.name if isinstance(i, Path) else repr(i) for i in inputs]
        key = hashlib.sha256(json.dumps([self._base, stage, parts]).encode()).hexdigest()[:16]
        folder = self._folder / f"{stage.replace(' ', '-')}-{key}"
        self._used.add(folder.name)
        if _is_whole(folder):
            self._display.cached(stage)
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # damaged since, or cut short by a power failure
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            with self._display.stage(stage) as update:
                make(temporary, update)
            (temporary / _HASHES).write_text(json.dumps(_hashes(temporary)))
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def prune(self) -> None:
        """Drops what the last run did not use."""
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry.name not in self._used:
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def open_cache(folder: Path, display: Display) -> Iterator[StageCache]:
    """The stage cache in `folder`.

    Raises:
        InputError: if another export is using it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another export is writing beside {folder}: wait for it, or choose another --out"
            ) from None
        yield StageCache(folder, display)
