"""The stage cache: a stage whose inputs did not change is not run again.

A stage is a frozen dataclass. Its key is a hash of our own sources, the tools' versions, the
machine's architecture, its class and its fields. A stage reads nothing but its fields, so the key
covers all its inputs. Its folder carries the key in its name and appears complete or not at all.

Memory is released between stages: graphs contain reference cycles, which Python frees only when its
collector happens to run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import gc
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from vit_edge.runtime.backends.base import give_back_freed
from vit_edge.runtime.errors import InputError

from .progress import Display, Update

_GROWTH = 512 << 20
"""Growth in bytes since the last collection after which another one pays: releasing memory and
allocating it again costs time, 9 of 55 s of a ViT-S's export when done for every 200 MB.
"""


class Memory:
    """Releases unused memory when this process has grown.

    Python's collector counts objects, not bytes: the graph of a finished stage, with all its
    weights, stays until enough new objects were made. Ten stages of a ViT-B left three gigabytes.
    """

    def __init__(self) -> None:
        self._least = resident_bytes()

    def give_back(self) -> None:
        """Collects garbage if the process has grown since the last time."""
        now = resident_bytes()
        if now - self._least > _GROWTH:
            gc.collect()
            give_back_freed()
            self._least = resident_bytes()
        else:
            self._least = min(self._least, now)


def resident_bytes() -> int:
    """The resident memory of this process in bytes; 0 on systems other than Linux.

    Source: proc_pid_statm(5).
    """
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


TOOLS = (
    "numpy", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx", "safetensors", "scikit-learn", "pillow",
)  # fmt: skip
OUR_PACKAGES = ("calibration", "export", "runtime", "vit")

_HASHES = "hashes.json"


def tool_versions() -> dict[str, str]:
    """The versions of the packages that results depend on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


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
    """Returns whether a stage's folder holds exactly the files that were written there."""
    try:
        return bool(json.loads((folder / _HASHES).read_text()) == _hashes(folder))
    except (OSError, ValueError):
        return False


def content_digest(folder: Path) -> str:
    """SHA-256 over all that a finished stage's folder holds."""
    return file_sha256(folder / _HASHES)


Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Stage(ABC, Generic[Result]):
    """Step of the export. Each subclass is a frozen dataclass whose fields are its key.

    Fields may be plain values, dataclasses of such, paths of earlier stages' results, and `Hashed`.
    """

    title_of: ClassVar[str]
    """Title for users; `{field}` stands for the value of a field."""

    @property
    def title(self) -> str:
        return self.title_of.format(**vars(self))

    @abstractmethod
    def run(self, folder: Path, update: Update) -> None:
        """Writes the results into an empty folder and reports progress."""

    @abstractmethod
    def load(self, folder: Path) -> Result:
        """Returns the results that `run` wrote."""


@dataclass(frozen=True)
class Hashed(Generic[Value]):
    """Value from outside the cache, such as the user's files; `digest` stands for it in keys."""

    value: Value
    digest: object


def key_part(value: object, cache: Path) -> object:
    """Turns the value of a stage's field into JSON.

    Args:
        value: A dataclass stands for its fields, `Hashed` for its digest, a path below `cache` for
            the stage that wrote it, because the folder's name holds that stage's key.
        cache: The folder of all stages.

    Raises:
        TypeError: for a value whose content is unknown, such as a function.
        ValueError: for a path outside of `cache`.
    """
    if isinstance(value, Path):
        return str(value.relative_to(cache))
    if isinstance(value, Hashed):
        return key_part(value.digest, cache)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__module__, type(value).__qualname__, key_part(fields, cache)]
    if isinstance(value, Mapping):
        return {str(name): key_part(inner, cache) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [key_part(inner, cache) for inner in value]
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a stage's key")


class StageCache:
    """Folders of finished stages, under one lock. Make one with `open_cache`."""

    def __init__(self, folder: Path, display: Display) -> None:
        self._folder, self._display = folder, display
        self._base = [source_digest(), tool_versions(), platform.machine()]
        self._used: set[str] = set()
        self._memory = Memory()

    def key(self, stage: Stage[Result]) -> str:
        """Hash of all that the results of `stage` depend on."""
        content = json.dumps([self._base, key_part(stage, self._folder)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def run(self, stage: Stage[Result]) -> Result:
        """Returns the results of `stage`, which is run if they are not there yet."""
        folder = self._folder / f"{stage.title.replace(' ', '-')}-{self.key(stage)}"
        self._used.add(folder.name)
        if _is_whole(folder):
            self._display.cached(stage.title)
            return stage.load(folder)
        shutil.rmtree(folder, ignore_errors=True)  # damaged since, or cut short by a power failure
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            self._memory.give_back()  # such as graphs that were read for the stage's inputs
            with self._display.stage(stage.title) as update:
                stage.run(temporary, update)
                self._memory.give_back()
            (temporary / _HASHES).write_text(json.dumps(_hashes(temporary)))
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return stage.load(folder)

    def prune(self) -> None:
        """Drops the folders that this run did not use."""
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry.name not in self._used:
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def open_cache(folder: Path, display: Display) -> Iterator[StageCache]:
    """Locks and yields the stage cache in `folder`.

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
