"""What a device adds to a bundle: engines built there, measured latencies, and which engines passed
the golden check.

It lives in `$XDG_CACHE_HOME/vit-edge/<bundle digest>/`, so that a bundle is never written to again.
Losing it costs time and nothing else: whatever cannot be read is as if it were not there, and is
made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .backends.base import Scratch
from .schema import SchemaError, decode, encode

_INDEX = "device.json"


def _home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "vit-edge"


def timing_caches() -> Path:
    """The folder of timing caches, which all bundles share."""
    return _home() / "timing"


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built here, verified by its hash before every use."""

    file: str
    sha256: str


@dataclass(frozen=True)
class _Index:
    engines: dict[str, BuiltEngine] = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceCache:
    """The cache of one bundle. Keys are strings that hold all that a value depends on."""

    folder: Path

    @classmethod
    def of(cls, bundle_digest: str) -> DeviceCache:
        return cls(_home() / bundle_digest)

    def _load(self) -> _Index:
        try:
            return decode(_Index, json.loads((self.folder / _INDEX).read_text()))
        except (OSError, ValueError, SchemaError, RecursionError):
            return _Index()

    def _store(self, index: _Index) -> None:
        self.write(_INDEX, encode(index).encode())

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all; a cache that cannot be written is done without."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                os.replace(temporary, self.folder / name)
            except BaseException:
                os.unlink(temporary)  # neither a full disk nor Ctrl-C shall leave halves
                raise
        except OSError:
            pass

    def engine(self, key: str) -> bytes | None:
        """The engine that was stored under `key`, if it is there and unaltered."""
        entry = self._load().engines.get(key)
        if entry is None or Path(entry.file).name != entry.file:
            return None
        try:
            data = (self.folder / entry.file).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None

    def store_engine(self, key: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[:16]}.engine"
        self.write(name, data)
        index = self._load()
        engines = {**index.engines, key: BuiltEngine(name, digest)}
        self._store(_Index(engines, index.checked, index.latencies))
        replaced = index.engines.get(key)
        if replaced is not None and replaced not in engines.values():
            self._remove(replaced.file)

    def _remove(self, file: str) -> None:
        with suppress(OSError):
            if Path(file).name == file:
                (self.folder / file).unlink()

    def scratch(self, key: str) -> Scratch:
        """Where the backend of the engine `key` keeps what it prepares when it opens."""
        name = f"{key}|scratch"
        return Scratch(lambda: self.engine(name), lambda data: self.store_engine(name, data))

    def is_checked(self, key: str) -> bool:
        return key in self._load().checked

    def mark_checked(self, key: str, rms_error: float) -> None:
        index = self._load()
        self._store(_Index(index.engines, {**index.checked, key: rms_error}, index.latencies))

    def latency(self, key: str) -> float | None:
        """The median in milliseconds that was measured here at batch 1, if one was."""
        return self._load().latencies.get(key)

    def store_latency(self, key: str, milliseconds: float) -> None:
        index = self._load()
        self._store(_Index(index.engines, index.checked, {**index.latencies, key: milliseconds}))
