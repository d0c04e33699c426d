"""Trust in a signed bundle: whose signature it carries, and whether a newer release has run here.

The signature lies in the bundle as `model.sig`: a Sigstore bundle (JSON) with a DSSE envelope
around an in-toto statement that lists every file's SHA-256. `model_signing verify key` reads the
same file. This module only reads the envelope, with the standard library; `cryptography` (OpenSSL)
does the mathematics. Signing is in `tools/signing.py`.

The newest release that ran is kept in `$XDG_STATE_HOME/vit-edge/`, apart from the cache, which may
be emptied at any time. A file there that cannot be read is an error: it must not count as "nothing
seen yet".

Sources: github.com/sigstore/model-transparency, secure-systems-lab/dsse `protocol.md`, in-toto
Statement v1, Sigstore `Bundle` v0.3.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BackendError, InputError, RollbackError, SignatureError, install_command
from .files import Folder, locked, write_durably
from .manifest import MANIFEST, MANIFEST_DIGEST, RELEASE, SIGNATURE, Manifest, digest_line
from .schema import decode, encode, parse_json

_MAX_SIGNATURE_BYTES = 2 << 20
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MAX_KEY_BYTES = 1 << 16

_MAX_RELEASE_BYTES = 1 << 16
_SEEN, _LOCK = "releases.json", "releases.lock"
_MAX_SEEN_BYTES = 16 << 20
_MAX_NUMBER = (1 << 63) - 1

PublicKey = str | os.PathLike[str] | bytes
"""A file with a public key in PEM form, or the PEM itself as bytes."""


@dataclass(frozen=True)
class SignedFiles:
    """The files that a verified signature vouches for.

    Attributes:
        key: SHA-256 in hex of the public key (its PEM, as Model Signing names keys).
        digests: SHA-256 in hex of each file, by its path in the bundle.
    """

    key: str
    digests: Mapping[str, str]

    def require(self, name: str, digest: str) -> None:
        """Raises SignatureError unless `digest` is what was signed for the file `name`."""
        signed = self.digests.get(name)
        if signed is None:
            raise SignatureError(f"{name} is not among the signed files: sign the bundle again")
        if signed != digest:
            raise SignatureError(
                f"{name} is not what was signed: the bundle was altered, or the signature belongs "
                "to another one; get the bundle from its maker again"
            )

    def require_exactly(self, digests: Mapping[str, str]) -> None:
        """Raises SignatureError unless the signed files are these and no others."""
        for name, digest in digests.items():
            self.require(name, digest)
        extra = sorted(self.digests.keys() - digests.keys())
        if extra:
            raise SignatureError(
                f"the signature lists files that the manifest does not: {extra[:5]}; sign the "
                "bundle again with `vit-edge sign`"
            )

    def read_release(self, folder: Folder, manifest: Manifest, digest: str) -> SignedRelease:
        """Reads the signed release, and requires that the signed files are those of the manifest.

        Args:
            folder: The bundle's folder.
            manifest: Its manifest.
            digest: SHA-256 in hex of `manifest.json`.

        Raises:
            SignatureError: if they are not, or the release is not valid.
        """
        if RELEASE not in self.digests:
            raise SignatureError(f"{SIGNATURE} vouches for no {RELEASE}: sign with `vit-edge sign`")
        raw = folder.read(RELEASE, _MAX_RELEASE_BYTES)
        self.require_exactly(
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
        return SignedRelease(self.key, release)


def verify_folder(folder: Folder, public_key: PublicKey) -> SignedFiles:
    """Verifies the signature of a bundle's folder. Raises as `verify_signature` does."""
    if not os.path.lexists(folder.path / SIGNATURE):
        raise SignatureError(
            f"{folder.path} is not signed, and a public key was given: `vit-edge sign` signs it"
        )
    return verify_signature(folder.read(SIGNATURE, _MAX_SIGNATURE_BYTES), public_key)


def verify_signature(raw: bytes, public_key: PublicKey) -> SignedFiles:
    """Verifies the bytes of `model.sig` and returns the signed list of files.

    Raises:
        SignatureError: if the signature is not `public_key`'s, or is not understood.
        InputError: if `public_key` is no public key of a supported kind.
        BackendError: if `cryptography` is not installed.
    """
    key = load_public_key(public_key)
    try:
        payload, signature = _open_envelope(parse_json(raw))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SignatureError(f"{SIGNATURE} is not a signature that we know: {error}") from None
    _verify(key, payload, signature)
    try:
        return SignedFiles(fingerprint(key), _listed(parse_json(payload)))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SignatureError(f"{SIGNATURE} signs something else than a bundle: {error}") from None


def load_public_key(public_key: PublicKey) -> Any:
    """Loads an ECDSA key on P-256, P-384 or P-521, as Model Signing does; raises as above."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise BackendError(
            f"verifying signatures needs cryptography: {install_command('verification')}"
        ) from None
    named = "the public key" if isinstance(public_key, bytes) else os.fspath(public_key)
    try:
        pem = public_key if isinstance(public_key, bytes) else _read_key(Path(public_key))
        key = load_pem_public_key(pem)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        reason = getattr(error, "strerror", None) or "it is not PEM"
        raise InputError(f"{named} is not a readable public key ({reason})") from None
    curves = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curves):
        raise InputError(
            f"{named} is not an elliptic curve key on P-256, P-384 or P-521: make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout`"
        )
    return key


def fingerprint(key: Any) -> str:
    """Returns the SHA-256 in hex of the public key's PEM, as in Model Signing's `hint`."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read_key(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MAX_KEY_BYTES)


def _open_envelope(bundle: Any) -> tuple[bytes, bytes]:
    """Returns the payload and its signature, not verified yet."""
    _expect(bundle["mediaType"], _MEDIA_TYPE, "mediaType")
    envelope = bundle["dsseEnvelope"]
    _expect(envelope["payloadType"], _PAYLOAD_TYPE, "payloadType")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise ValueError("it has not exactly one signature")
    return _decode(envelope["payload"]), _decode(signatures[0]["sig"])


def _decode(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("base64 text is missing")
    import base64

    return base64.b64decode(text, validate=True)


def _verify(key: Any, payload: bytes, signature: bytes) -> None:
    """Verifies the signature by ECDSA with the hash of the curve's size.

    Source: DSSE v1, pre-authentication encoding.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithms = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    head = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} "
    try:
        key.verify(signature, head.encode() + payload, ec.ECDSA(algorithms[key.curve.key_size]))
    except InvalidSignature:
        raise SignatureError(
            "the bundle's signature is not of the given public key: it was signed with another "
            "key, or was altered; check --public-key, or get the bundle from its maker again"
        ) from None


def _listed(statement: Any) -> dict[str, str]:
    """Returns the SHA-256 of each resource of the statement, by name."""
    _expect(statement["_type"], _STATEMENT_TYPE, "_type")
    _expect(statement["predicateType"], _PREDICATE_TYPE, "predicateType")
    serialization = statement["predicate"]["serialization"]
    _expect(serialization["method"], "files", "method")
    _expect(serialization["hash_type"], "sha256", "hash_type")
    _expect(serialization["allow_symlinks"], False, "allow_symlinks")
    digests: dict[str, str] = {}
    for resource in statement["predicate"]["resources"]:
        name, digest = resource["name"], resource["digest"]
        _expect(resource["algorithm"], "sha256", "algorithm")
        if not isinstance(name, str) or not isinstance(digest, str) or name in digests:
            raise ValueError("a file is listed twice, or without its name or hash")
        digests[name] = digest
    return digests


def _expect(value: Any, expected: Any, what: str) -> None:
    if value != expected or type(value) is not type(expected):
        raise ValueError(f"{what} is {str(value)[:60]!r}, not {expected!r}")


@dataclass(frozen=True)
class Release:
    """Contents of `release.json`: a bundle's place in a series of bundles that replace one another.

    Attributes:
        name: Name of the series, such as "door camera"; a device tracks each name separately.
        number: Grows from release to release.
    """

    name: str
    number: int

    def __post_init__(self) -> None:
        if not 0 < self.number <= _MAX_NUMBER:
            raise ValueError(f"release {self.number} is not between 1 and 2^63 - 1")
        if not self.name.strip():
            raise ValueError("a release has a name")


@dataclass(frozen=True)
class SignedRelease:
    """A bundle's signer (SHA-256 of the public key, in hex), and its release."""

    key: str
    release: Release

    def __str__(self) -> str:
        return (
            f"signed: release {self.release.number} of {self.release.name}, by the key "
            f"{self.key[:16]}"
        )

    def require_not_older(self) -> None:
        """Raises RollbackError if a newer release of this key and name has run here."""
        SeenReleases.here().require_not_older(self.key, self.release)

    def remember(self) -> None:
        """Records this release as seen here. Raises as `SeenReleases.remember` does."""
        SeenReleases.here().remember(self.key, self.release)


@dataclass(frozen=True)
class _Seen:
    """The highest release of each key and name: `<fingerprint>/<name>` -> number."""

    releases: dict[str, int]


@dataclass(frozen=True)
class SeenReleases:
    """The releases that ran on this device, on disk; safe for several threads and processes."""

    folder: Path

    @classmethod
    def here(cls) -> SeenReleases:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        return cls(Path(home) / "vit-edge")

    def require_not_older(self, key: str, release: Release) -> None:
        """Raises RollbackError if a newer release of this key and name has run here."""
        _compare(self._load().releases, key, release)

    def remember(self, key: str, release: Release) -> None:
        """Records `release` as seen. Raises RollbackError as `require_not_older` does.

        Raises:
            SignatureError: if it cannot be written.
        """
        if _compare(self._load().releases, key, release):
            return  # known already: works on a read-only system too
        try:
            with self._locked():
                seen = self._load().releases
                _compare(seen, key, release)
                newer = _Seen({**seen, _line(key, release): release.number})
                write_durably(self.folder / _SEEN, encode(newer).encode())
        except OSError as error:
            raise SignatureError(
                f"{self.folder} cannot be written ({error.strerror}), so an older release would go "
                "unnoticed later: point XDG_STATE_HOME to a folder that survives restarts"
            ) from None

    def _load(self) -> _Seen:
        path = self.folder / _SEEN
        try:
            with open(path, "rb") as file:
                return decode(_Seen, parse_json(file.read(_MAX_SEEN_BYTES)))
        except FileNotFoundError:
            return _Seen({})
        except OSError as error:
            raise SignatureError(
                f"{path}, which says what releases ran here, cannot be read ({error.strerror}): "
                "make it readable, or point XDG_STATE_HOME to another folder"
            ) from None
        except (ValueError, RecursionError) as error:
            raise SignatureError(
                f"{path}, which says what releases ran here, is damaged ({str(error)[:100]}): "
                "delete it if no older release can have been slipped in"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.folder / _LOCK):
            yield


def _line(key: str, release: Release) -> str:
    return f"{key}/{release.name}"


def _compare(seen: dict[str, int], key: str, release: Release) -> bool:
    """Returns true if this release is the newest seen. Raises RollbackError if it is older."""
    newest = seen.get(_line(key, release), 0)
    if release.number < newest:
        raise RollbackError(
            f"this is release {release.number} of {release.name!r}, but release {newest} has run "
            f"on this device: install release {newest} or a newer one; to go back on purpose, sign "
            f"the old bundle again with a number above {newest}"
        )
    return release.number == newest
