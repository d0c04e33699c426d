"""Reads a bundle: every file is opened once, hashed, and exactly those bytes are used.

Nothing outside the folder is read: paths are plain, and no component may be a link. No parser and
no native library sees a byte before its hash matched. With a public key, nothing but the signature
itself is parsed before it was verified against the key's signature.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BundleError
from .files import REMEDY, Folder
from .golden import GoldenSamples, parse_golden
from .manifest import (
    GOLDEN,
    MANIFEST,
    MANIFEST_DIGEST,
    FileEntry,
    Graph,
    Manifest,
    digest_line,
    parse_manifest,
)

if TYPE_CHECKING:
    from .trust import PublicKey, SignedRelease

_MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is verified; its files are verified as they are read.

    Attributes:
        folder: The folder that it lies in.
        digest: SHA-256 of the manifest in hex, which identifies all the bundle's bytes.
        manifest: Its manifest.
        signed: The verified signer and release; None if it was opened without a public key.
    """

    folder: Folder
    digest: str
    manifest: Manifest
    signed: SignedRelease | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    @classmethod
    def open(cls, path: str | os.PathLike[str], public_key: PublicKey | None = None) -> Bundle:
        """Reads and verifies the manifest of the bundle at `path`.

        Args:
            path: The bundle's folder.
            public_key: Requires a signature of this key; None requires none.

        Raises:
            BundleError: if there is no bundle there, or its manifest is altered or not understood.
            SignatureError: if it is not signed with `public_key`, or not what was signed.
            RollbackError: if a newer release has run on this device.
            InputError: if `public_key` is no public key.
            BackendError: if `cryptography`, which a signature needs, is not installed.
        """
        folder = Folder.open(path)
        signed = None
        if public_key is not None:
            from .trust import verify_folder  # not needed without a public key

            signed = verify_folder(folder, public_key)
        raw = folder.read(MANIFEST, _MAX_MANIFEST_BYTES)
        digest = hashlib.sha256(raw).hexdigest()
        if signed is not None:
            signed.require(MANIFEST, digest)
        line = folder.read(MANIFEST_DIGEST, 4096)
        if line != digest_line(digest):
            raise BundleError(
                f"{folder.path / MANIFEST} was altered: its hash is not in {MANIFEST_DIGEST}; "
                f"{REMEDY}"
            )
        manifest = parse_manifest(raw)
        release = None if signed is None else signed.read_release(folder, manifest, digest)
        if release is not None:
            release.require_not_older()
        return cls(folder, digest, manifest, release)

    def remember_release(self) -> None:
        """Records on this device that this release ran: older ones are refused from now on.

        Does nothing for a bundle that was opened without a public key.

        Raises:
            RollbackError: if a newer one has run meanwhile.
            SignatureError: if it cannot be recorded.
        """
        if self.signed is not None:
            self.signed.remember()

    def read(self, name: str) -> bytes:
        """Returns the verified bytes of a file that the manifest lists.

        Raises:
            BundleError: if it is missing, altered, truncated, or reached through a link.
        """
        entry = self._entry(name)
        data = self.folder.read(name, entry.size, exact=entry.size)
        self._require_hash(name, hashlib.sha256(data).hexdigest(), entry)
        return data

    def read_graph(self, graph: Graph) -> tuple[bytes, dict[str, memoryview]]:
        """Returns the verified bytes of an ONNX graph, and of the files with its weights by name.

        Raises:
            BundleError: as `read` does, or if the graph names other files.
        """
        names = {file.rpartition("/")[2]: file for file in graph.external}
        data = self.read(graph.file)
        others = sorted(external_locations(data) - names.keys())
        if others:
            raise BundleError(
                f"{self.path / graph.file} reads {others[0][:60]!r}, which the manifest does not "
                "list: do not use this bundle"
            )
        return data, {name: memoryview(self.read(file)) for name, file in names.items()}

    def verify(self) -> None:
        """Reads every file once and checks its hash. Raises BundleError if one is damaged."""
        for name in self.manifest.files:
            entry = self._entry(name)
            digest = self.folder.digest(name, entry.size, exact=entry.size)
            self._require_hash(name, digest, entry)

    def golden(self) -> GoldenSamples:
        """Reads the golden samples. Raises BundleError if they do not fit the manifest."""
        return parse_golden(self.read(GOLDEN), self.manifest.spec)

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"the manifest of {self.path} lists no file {name!r}")
        return entry

    def _require_hash(self, name: str, digest: str, entry: FileEntry) -> None:
        if digest != entry.sha256:
            raise BundleError(
                f"{self.path / name} was altered: its hash is not the manifest's; {REMEDY}"
            )


# An ONNX graph names the files that hold its weights. ONNX Runtime and TensorRT open them by name,
# relative to the process's working directory if a graph is given as bytes, and follow `../`: a
# hostile graph could read any file. So the names are looked up in the verified bytes first, by a
# minimal strict parser of protobuf's wire format: it skips what protobuf would skip as unknown, and
# refuses what protobuf might read in another way.
# Source: protobuf.dev/programming-guides/encoding, `onnx.proto` (IR version 13).
_MAX_DEPTH = 64
_MAX_FIELDS = 1 << 18
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


TENSOR_FIELDS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""For each message type the fields through which a tensor's `external_data` is reached."""
_KEY, _VALUE = 1, 2
_LOCATION = b"location"


def external_locations(graph: bytes) -> set[str]:
    """Returns the files that the tensors of an ONNX `ModelProto` name, as written there.

    Raises:
        BundleError: if the bytes are not well-formed.
    """
    locations: set[str] = set()
    pending = [(memoryview(graph), "ModelProto", 0)]
    budget = iter(range(_MAX_FIELDS))
    try:
        while pending:
            message, kind, depth = pending.pop()
            if depth > _MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            fields = _fields(message, budget)
            if kind == "StringStringEntryProto":
                locations.update(_location(fields))
                continue
            inner = TENSOR_FIELDS[kind]
            pending += [
                (content, inner[number], depth + 1) for number, content in fields if number in inner
            ]
    except ValueError as error:
        raise BundleError(f"a graph of the bundle is not valid ONNX: {error}") from None
    return locations


def _location(entry: Iterator[tuple[int, memoryview]]) -> set[str]:
    """Returns all values of an entry that has the key `location`, even beside other keys, because
    readers may differ in which of repeated fields they take.
    """
    fields = [(number, bytes(content)) for number, content in entry]
    if (_KEY, _LOCATION) not in fields:
        return set()
    return {content.decode("utf-8") for number, content in fields if number == _VALUE} or {""}


def _fields(message: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """Yields the length-delimited fields of a message; takes one from `budget` for every field.

    Raises:
        ValueError: if the message is not well-formed, or `budget` is exhausted.
    """
    position, end = 0, len(message)
    while position < end:
        if next(budget, None) is None:
            raise ValueError(f"it has more than {_MAX_FIELDS} fields")
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _BYTES:
            size, position = _varint(message, position)
            if size > end - position:
                raise ValueError("a field is longer than the file")
            yield number, message[position : position + size]
            position += size
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
            if position > end:
                raise ValueError("a field is longer than the file")
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns the number at `position`, and the position after it."""
    value = 0
    for shift, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("a number without an end")
