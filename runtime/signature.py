"""Verifies an OpenSSF Model Signing signature made with a private key.

The signature lies in the bundle as `model.sig`: a Sigstore bundle (JSON) with a DSSE envelope
around an in-toto statement that lists every file's SHA-256. `model_signing verify key` reads the
same file. Here only the envelope is read, which takes the standard library; the mathematics is
`cryptography`'s (OpenSSL's). Signing is in `signing.py`.

Sources: github.com/sigstore/model-transparency, secure-systems-lab/dsse `protocol.md`, in-toto
Statement v1, Sigstore `Bundle` v0.3.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BackendError, InputError, SignatureError
from .schema import parse_json

SIGNATURE = "model.sig"
MAX_SIGNATURE_BYTES = 2 << 20
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MAX_KEY_BYTES = 1 << 16

PublicKey = str | os.PathLike[str] | bytes
"""A file with a public key in PEM form, or the PEM itself as bytes."""


@dataclass(frozen=True)
class SignedFiles:
    """What a verified signature vouches for.

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


def verify_signature(raw: bytes, public_key: PublicKey) -> SignedFiles:
    """The signed list of files in the bytes of `model.sig`.

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
    """An ECDSA key on P-256, P-384 or P-521, the kinds of Model Signing; raises as above."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise BackendError(
            "verifying signatures needs cryptography: pip install 'vit-edge[verification]'"
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
    """SHA-256 in hex of the public key's PEM, as Model Signing's `hint`."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read_key(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MAX_KEY_BYTES)


def _open_envelope(bundle: Any) -> tuple[bytes, bytes]:
    """The payload and its signature, not verified yet."""
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
    """Source: DSSE v1, pre-authentication encoding; ECDSA with the hash of the curve's size."""
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
    """Name -> SHA-256 of the statement's resources."""
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


def _expect(value: Any, wanted: Any, what: str) -> None:
    if value != wanted or type(value) is not type(wanted):
        raise ValueError(f"{what} is {str(value)[:60]!r}, not {wanted!r}")
