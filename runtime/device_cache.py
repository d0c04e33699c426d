"""The device's additions to a bundle: engines built there, measured latencies, which engines passed
the golden check, and the variants that `vit-edge tune` found to be faster.

It lives in `$XDG_CACHE_HOME/vit-edge/<bundle digest>/`, so that a bundle is never written to again.
Losing it costs only time: whatever cannot be read is treated as missing, and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from errno import ENOENT, ENOSPC
from pathlib import Path

from .backends.base import AskedProduct, BlobStore, Built, RunVariant
from .files import locked_if_possible, write_whole
from .schema import SchemaError, decode, encode, printable

_INDEX, _LOCK, _PROBE = "device.json", "lock", "probe"
_log = logging.getLogger("vit_edge.runtime")
_unwritable: dict[Path, str] = {}
"""Folders that were reported as not writable, with the reason."""


def _home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "vit-edge"


def _warn_once(folder: Path, error: OSError) -> None:
    """Logs that the cache cannot be written, once in a process."""
    reason = "no space left" if error.errno == ENOSPC else error.strerror or str(error)
    if folder not in _unwritable:
        _log.warning(
            "the cache %s cannot be written (%s): what is learned about this device is lost when "
            "this process ends; XDG_CACHE_HOME names another place",
            folder,
            reason,
        )
    _unwritable[folder] = reason


def timing_caches() -> Path:
    """The folder of timing caches, which all bundles share."""
    return _home() / "timing"


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built here, verified by its hash before every use."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Finding:
    """Facts learned here about one precision on one backend.

    Attributes:
        engine: The engine built here, if any.
        rms_error: Error in the golden check that it passed; None if it was not checked yet.
        latency_ms: Median latency of one image; None if it was not measured yet.
        latency_interval_ms: Confidence interval of the latency relative to engines that were
            measured side by side with it; None if it is not known.
        refused: Reason why it cannot be used here; None if it can, or if it was not tried.
    """

    engine: BuiltEngine | None = None
    rms_error: float | None = None
    latency_ms: float | None = None
    latency_interval_ms: tuple[float, float] | None = None
    refused: str | None = None


@dataclass(frozen=True)
class _Listing:
    """Lines of the listing of the engine with that hash, and the products of its graph."""

    engine_sha256: str
    lines: tuple[str, ...]
    products: tuple[AskedProduct, ...]


@dataclass(frozen=True)
class _Index:
    """Findings by key, and kept variants by the key of the default candidate."""

    findings: dict[str, Finding] = field(default_factory=dict)
    variants: dict[str, RunVariant] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceCache:
    """The cache of one bundle. Keys are strings that contain all that a finding depends on."""

    folder: Path

    @classmethod
    def of(cls, bundle_digest: str) -> DeviceCache:
        return cls(_home() / bundle_digest)

    def _index(self) -> _Index:
        try:
            return decode(_Index, json.loads((self.folder / _INDEX).read_text()))
        except (OSError, ValueError, SchemaError, RecursionError):
            return _Index()

    def read(self) -> tuple[dict[str, Finding], dict[str, RunVariant]]:
        """Returns all findings by key, and kept variants by the key of the default candidate."""
        index = self._index()
        return index.findings, index.variants

    def findings(self) -> dict[str, Finding]:
        """All findings, by their keys."""
        return self.read()[0]

    def finding(self, key: str) -> Finding:
        return self.findings().get(key, Finding())

    def mark_right(self, key: str, rms_error: float) -> None:
        """Records that `key` passed the golden check, and removes an earlier refusal."""
        with self._changed(key) as (findings, old):
            findings[key] = replace(old, rms_error=rms_error, refused=None)

    def mark_refused(self, key: str, reason: str) -> None:
        with self._changed(key) as (findings, old):
            findings[key] = Finding(engine=old.engine, refused=reason)

    def store_latency(
        self, key: str, milliseconds: float, interval: tuple[float, float] | None = None
    ) -> None:
        with self._changed(key) as (findings, old):
            findings[key] = replace(old, latency_ms=milliseconds, latency_interval_ms=interval)

    def store_engine(self, key: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[:16]}.engine"
        if not self.write(name, data):
            return
        with self._changed(key) as (findings, old):
            findings[key] = Finding(BuiltEngine(name, digest))  # all else was about the old one
            others = [f.engine for k, f in findings.items() if k != key]
        if old.engine is not None and old.engine not in (*others, findings[key].engine):
            self._remove(old.engine.file)

    def engine(self, key: str) -> bytes | None:
        """Returns the engine stored under `key`; None if it is missing or was altered."""
        entry = self.finding(key).engine
        if entry is None or Path(entry.file).name != entry.file:
            return None
        try:
            data = (self.folder / entry.file).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None

    def store_listing(self, key: str, built: Built) -> None:
        """Keeps the builder's listing and products of the engine that is stored under `key`."""
        digest = hashlib.sha256(built.engine).hexdigest()
        lines = built.listing.split("\n")  # `splitlines` would split at separators inside them too
        listing = _Listing(digest, tuple(map(printable, lines)), built.products)
        self.store_engine(f"{key}|listing", encode(listing).encode())

    def listing(self, key: str) -> Built | None:
        """Returns the listing and products of the engine under `key`, without its bytes; None if
        there are none for this engine.
        """
        raw, engine = self.engine(f"{key}|listing"), self.finding(key).engine
        try:
            listing = None if raw is None else decode(_Listing, json.loads(raw))
        except (ValueError, RecursionError):
            return None
        if listing is None or engine is None or listing.engine_sha256 != engine.sha256:
            return None
        return Built(b"", "\n".join(listing.lines), listing.products)

    def keep_variant(self, key: str, variant: RunVariant, finding: Finding) -> None:
        """Keeps a variant of `key` in place of the previous one. Its engine, if it has one, must
        already be stored under the key of the variant.
        """
        own = variant_key(key, variant)
        with self._changing() as index:
            old = index.variants.get(key)
            files = set() if old in (None, variant) else _drop(index, variant_key(key, old))
            engine = index.findings.get(own, Finding()).engine
            index.variants[key] = variant
            index.findings[own] = replace(finding, engine=engine)
        for file in files:
            self._remove(file)

    def forget_variant(self, key: str) -> None:
        """Forgets the variant of `key` and all findings about it."""
        with self._changing() as index:
            variant = index.variants.pop(key, None)
            files = set() if variant is None else _drop(index, variant_key(key, variant))
        for file in files:
            self._remove(file)

    def _remove(self, file: str) -> None:
        with suppress(OSError):
            if Path(file).name == file:
                (self.folder / file).unlink()

    def scratch(self, key: str) -> BlobStore:
        """Returns the store for what a backend prepares when it opens the engine `key`."""
        name = f"{key}|scratch"
        return BlobStore(lambda: self.engine(name), lambda data: self.store_engine(name, data))

    def write(self, name: str, data: bytes) -> bool:
        """Writes a file whole or not at all. Returns true if it was written: the cache is optional,
        so a failure is only logged, once in a process.
        """
        try:
            self._make_folder()
            write_whole(self.folder / name, data)
        except OSError as error:
            _warn_once(self.folder.parent, error)
            return False
        return True

    def _make_folder(self) -> None:
        if not self.folder.is_absolute():
            raise FileNotFoundError(ENOENT, "this user has no home")
        self.folder.mkdir(parents=True, exist_ok=True)

    def problem(self) -> str | None:
        """Returns why nothing can be kept here, such as "no space left"; None if it can."""
        if self.write(_PROBE, b"can be written"):
            self._remove(_PROBE)
            return None
        return _unwritable[self.folder.parent]

    @contextmanager
    def _changed(self, key: str) -> Iterator[tuple[dict[str, Finding], Finding]]:
        """Yields all findings, to be changed, and that of `key`; writes when the block ends."""
        with self._changing() as index:
            yield index.findings, index.findings.get(key, Finding())

    @contextmanager
    def _changing(self) -> Iterator[_Index]:
        """Yields the index, to be changed; writes it when the block ends."""
        with self._locked():
            index = self._index()
            yield index
            self.write(_INDEX, encode(index).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the cache if possible: two processes that add to it must not lose each other's
        findings.
        """
        with ExitStack() as held:
            with suppress(OSError):
                self._make_folder()
                held.enter_context(locked_if_possible(self.folder / _LOCK))
            yield


def variant_key(key: str, variant: RunVariant) -> str:
    """Returns the key of a variant of the candidate with the key `key`."""
    return f"{key}|{variant.name}"


def _drop(index: _Index, key: str) -> set[str]:
    """Drops all findings about a variant; returns the engine files that no other finding names."""
    own = [k for k in index.findings if k == key or k.startswith(f"{key}|")]
    engines = [index.findings.pop(k).engine for k in own]
    left = {f.engine.file for f in index.findings.values() if f.engine}
    return {engine.file for engine in engines if engine} - left
