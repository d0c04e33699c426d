"""Reads a bundle: every file is opened once, hashed, and exactly those bytes are used.

Nothing outside the folder is followed: paths are plain, and no component may be a link. No parser
and no native library sees a byte before its hash matched. With a public key, nothing is parsed
before the key's signature vouched for it, but the signature itself.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import BundleError, SignatureError
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
from .onnx_external import external_locations
from .releases import MAX_RELEASE_BYTES, RELEASE, Release, SeenReleases
from .schema import decode, parse_json
from .signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    PublicKey,
    SignedFiles,
    verify_signature,
)

_MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class SignedRelease:
    """Who signed a bundle (SHA-256 of the public key, in hex), as which release."""

    key: str
    release: Release


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is verified; its files are verified as they are read.

    Attributes:
        folder: Where it lies.
        digest: SHA-256 of the manifest in hex: it stands for all the bundle's bytes.
        manifest: What it holds.
        signed: Whose signature was verified; None if it was opened without a public key.
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
            public_key: Demands a signature of this key; None takes the bundle as it is.

        Raises:
            BundleError: if there is no bundle there, or its manifest is altered or not understood.
            SignatureError: if it is not signed with `public_key`, or not as it was signed.
            RollbackError: if a newer release has run on this device.
            InputError: if `public_key` is no public key.
            BackendError: if `cryptography`, which a signature needs, is not installed.
        """
        folder = Folder.open(path)
        signed = None if public_key is None else verify_folder(folder, public_key)
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
        release = None if signed is None else read_release(folder, signed, manifest, digest)
        if release is not None:
            SeenReleases.here().require_not_older(release.key, release.release)
        return cls(folder, digest, manifest, release)

    def remember_release(self) -> None:
        """Keeps in mind, on this device, that this release ran: older ones are refused from now on.

        Does nothing for a bundle that was opened without a public key.

        Raises:
            RollbackError: if a newer one has run meanwhile.
            SignatureError: if it cannot be kept.
        """
        if self.signed is not None:
            SeenReleases.here().remember(self.signed.key, self.signed.release)

    def read(self, name: str) -> bytes:
        """The verified bytes of a file that the manifest lists.

        Raises:
            BundleError: if it is missing, altered, truncated, or reached through a link.
        """
        entry = self._entry(name)
        data = self.folder.read(name, entry.size, exact=entry.size)
        self._require_hash(name, hashlib.sha256(data).hexdigest(), entry)
        return data

    def read_graph(self, graph: Graph) -> tuple[bytes, dict[str, memoryview]]:
        """The verified bytes of an ONNX graph, and of the files with its weights by their names.

        Raises:
            BundleError: as `read` does, or if the graph wants to read other files.
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
        """Reads every file once, so that damage anywhere shows. Raises BundleError."""
        for name in self.manifest.files:
            entry = self._entry(name)
            digest = self.folder.digest(name, entry.size, exact=entry.size)
            self._require_hash(name, digest, entry)

    def golden(self) -> GoldenSamples:
        """The golden samples. Raises BundleError if they do not fit the manifest."""
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


def verify_folder(folder: Folder, public_key: PublicKey) -> SignedFiles:
    """What the bundle's signature vouches for, the signature verified."""
    if not os.path.lexists(folder.path / SIGNATURE):
        raise SignatureError(
            f"{folder.path} is not signed, and a public key was given: `vit-edge sign` signs it"
        )
    return verify_signature(folder.read(SIGNATURE, MAX_SIGNATURE_BYTES), public_key)


def read_release(
    folder: Folder, signed: SignedFiles, manifest: Manifest, digest: str
) -> SignedRelease:
    """The signed release, where what was signed is what the manifest lists."""
    if RELEASE not in signed.digests:
        raise SignatureError(f"{SIGNATURE} vouches for no {RELEASE}: sign with `vit-edge sign`")
    raw = folder.read(RELEASE, MAX_RELEASE_BYTES)
    signed.require_exactly(
        {
            MANIFEST: digest,
            MANIFEST_DIGEST: hashlib.sha256(digest_line(digest)).hexdigest(),
            RELEASE: hashlib.sha256(raw).hexdigest(),
            **{name: entry.sha256 for name, entry in manifest.files.items()},
        }
    )
    try:
        release = decode(Release, parse_json(raw))
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"{RELEASE} is not valid: {str(error)[:300]}") from None
    return SignedRelease(signed.key, release)
