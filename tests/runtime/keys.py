"""Keys and signatures for tests: made with `cryptography`, in Model Signing's format."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST
from vit_edge.runtime.trust import RELEASE, SIGNATURE

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def write_private(path: Path, key: Any, password: bytes | None = None) -> Path:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def signed_names(bundle: Path) -> list[str]:
    listed = json.loads((bundle / MANIFEST).read_text())["files"]
    return sorted([*listed, MANIFEST, MANIFEST_DIGEST, RELEASE])


def statement(bundle: Path) -> dict[str, Any]:
    """What Model Signing would sign of the bundle."""
    digests = {
        n: hashlib.sha256((bundle / n).read_bytes()).hexdigest() for n in signed_names(bundle)
    }
    root = hashlib.sha256(b"".join(bytes.fromhex(d) for d in digests.values())).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": bundle.name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "resources": [
                {"name": n, "algorithm": "sha256", "digest": d} for n, d in digests.items()
            ],
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        },
    }


def envelope(payload: bytes, key: Any, head: str = "DSSEv1") -> dict[str, Any]:
    """A Sigstore bundle around the payload, signed with an ECDSA key."""
    size = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
    text = f"{head} {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    signature = base64.b64encode(key.sign(text, ec.ECDSA(size))).decode()
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signature, "keyid": ""}],
        },
    }


def sign_by_hand(
    bundle: Path,
    key: Any,
    number: int = 1,
    name: str = "digits",
    change: Callable[[dict[str, Any]], object] = lambda statement: None,
) -> None:
    """Signs the bundle without the library; `change` may alter what is signed."""
    (bundle / RELEASE).write_text(json.dumps({"name": name, "number": number}))
    content = statement(bundle)
    change(content)
    signed = envelope(json.dumps(content).encode(), key)
    (bundle / SIGNATURE).write_text(json.dumps(signed))
