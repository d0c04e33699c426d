"""With a public key, nothing is used that this key did not sign."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

import vit_edge.runtime.bundle
from vit_edge.runtime import BackendError, Engine, InputError, SignatureError
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import MANIFEST
from vit_edge.runtime.trust import RELEASE, SIGNATURE, verify_signature

from .keys import envelope, public_pem, sign_by_hand, statement, write_private
from .test_bundle import replace_file, rewrite_manifest

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
PUBLIC = public_pem(KEY)


@pytest.fixture
def signed(bundle: Path) -> Path:
    sign_by_hand(bundle, KEY)
    return bundle


def refused(bundle: Path, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is refused, its manifest not even parsed."""
    with monkeypatch.context() as patch:
        patch.setattr(
            vit_edge.runtime.bundle, "parse_manifest", lambda raw: pytest.fail("was parsed")
        )
        with pytest.raises(SignatureError, match=match):
            Engine.load(bundle, public_key=PUBLIC)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_bundle_opens_with_its_key(bundle: Path, tmp_path: Path, curve: Any) -> None:
    key = ec.generate_private_key(curve)
    sign_by_hand(bundle, key, 7)
    path = tmp_path / "key.pub"
    path.write_bytes(public_pem(key))
    for public_key in (path, str(path), public_pem(key)):
        opened = Bundle.open(bundle, public_key)
        assert opened.signed is not None
        assert (opened.signed.release.name, opened.signed.release.number) == ("digits", 7)
    assert Bundle.open(bundle).signed is None
    with Engine.load(bundle, "fp32", "onnxruntime", public_key=path) as engine:
        assert engine.info.precision == "fp32"


def test_an_unsigned_bundle_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(bundle, "is not signed", monkeypatch)


def test_another_key_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_by_hand(bundle, OTHER)
    refused(bundle, "not of the given public key", monkeypatch)


def test_the_signature_of_another_bundle_is_refused(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_manifest(signed, lambda m: m.update(name="another"))
    refused(signed, "belongs to another one", monkeypatch)


def test_a_file_changed_with_its_hashes_is_refused(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hashes alone cannot see: a bundle that somebody changed and hashed again."""
    replace_file(signed, "onnx/fp32.onnx", b"evil")
    Bundle.open(signed).verify()
    refused(signed, "manifest.json is not what was signed", monkeypatch)


@pytest.mark.parametrize("name", [RELEASE, "manifest.sha256"])
def test_the_small_files_are_signed_too(signed: Path, name: str) -> None:
    path = signed / name
    other_digits = bytes.maketrans(b"0123456789", b"1234567890")
    path.write_bytes(path.read_bytes().translate(other_digits))
    with pytest.raises(BundleError, match=r"not what was signed|was altered"):
        Bundle.open(signed, PUBLIC)


def test_every_damage_to_a_signed_file_is_refused(signed: Path) -> None:
    for path in [p for p in signed.rglob("*") if p.is_file() and p.name != SIGNATURE]:
        kept = path.read_bytes()
        for damaged in (kept[:-1], b"\0" + kept, kept[:9] + bytes([kept[9] ^ 4]) + kept[10:]):
            path.write_bytes(damaged)
            with pytest.raises(BundleError):
                Bundle.open(signed, PUBLIC).verify()
        path.unlink()
        with pytest.raises(BundleError, match="missing"):
            Bundle.open(signed, PUBLIC).verify()
        path.write_bytes(kept)
    Bundle.open(signed, PUBLIC).verify()


def _resources(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Any], object]:
    return lambda s: change(s["predicate"]["resources"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update(_type="x"), "_type is 'x'"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "predicateType"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "method"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="blake3"), "hash_type"),
        (lambda s: s["predicate"]["serialization"].update(allow_symlinks=True), "allow_symlinks"),
        (lambda s: s["predicate"]["serialization"].update(allow_symlinks=0), "allow_symlinks"),
        (lambda s: s.pop("predicate"), "predicate"),
        (lambda s: s["predicate"].update(resources={}), "among the signed files"),
        (lambda s: s["predicate"].update(resources=None), "NoneType"),
        (_resources(lambda r: r.append(r[0])), "listed twice"),
        (_resources(lambda r: r[0].update(digest=7)), "without its name or hash"),
        (_resources(lambda r: r[0].update(algorithm="md5")), "algorithm"),
        (_resources(lambda r: [e for e in list(r) if e["name"] == MANIFEST and r.remove(e)]),
         "manifest.json is not among the signed files"),
        (_resources(lambda r: [e for e in list(r) if e["name"] == RELEASE and r.remove(e)]),
         "vouches for no release.json"),
        (_resources(lambda r: [e for e in list(r) if e["name"] == "golden.npz" and r.remove(e)]),
         "golden.npz is not among the signed files"),
        (_resources(lambda r: [e.update(digest="0" * 64) for e in r if "fp32" in e["name"]]),
         "not what was signed"),
        (_resources(lambda r: r.append({**r[0], "name": "more"})), "manifest does not: ..more"),
    ],
)  # fmt: skip
def test_a_statement_that_vouches_for_something_else_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    sign_by_hand(bundle, KEY, change=change)
    with pytest.raises(SignatureError, match=match):
        Bundle.open(bundle, PUBLIC)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        lambda e: e.pop("mediaType"),
        lambda e: e.update(dsseEnvelope=[]),
        lambda e: e["dsseEnvelope"].update(payloadType="text/plain"),
        lambda e: e["dsseEnvelope"].update(payload=None),
        lambda e: e["dsseEnvelope"].update(payload="%%%"),
        lambda e: e["dsseEnvelope"].update(signatures=[]),
        lambda e: e["dsseEnvelope"].update(signatures=e["dsseEnvelope"]["signatures"] * 2),
        lambda e: e["dsseEnvelope"]["signatures"][0].update(sig=""),
        lambda e: e["dsseEnvelope"]["signatures"][0].update(sig="MAYCAQACAQA="),  # r = s = 0
        lambda e: e["dsseEnvelope"]["signatures"][0].pop("sig"),
    ],
)
def test_an_envelope_that_is_none_is_refused(
    signed: Path, change: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = json.loads((signed / SIGNATURE).read_text())
    change(value)
    (signed / SIGNATURE).write_text(json.dumps(value))
    refused(signed, "signature", monkeypatch)


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"{", b"[" * 100_000, b"\xff", b"null"])
def test_a_signature_file_of_anything_else_is_refused(
    signed: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (signed / SIGNATURE).write_bytes(raw)
    refused(signed, "not a signature that we know", monkeypatch)


def test_the_faulty_encoding_of_old_signers_is_refused(signed: Path) -> None:
    """Model Signing before 1.0 signed another text; accepting both would be a second way in."""
    payload = json.dumps(statement(signed)).encode()
    (signed / SIGNATURE).write_text(json.dumps(envelope(payload, KEY, head="DSSEV1")))
    with pytest.raises(SignatureError, match="not of the given public key"):
        Bundle.open(signed, PUBLIC)


def test_every_changed_byte_of_a_signature_is_refused_or_means_the_same(signed: Path) -> None:
    raw = (signed / SIGNATURE).read_bytes()
    good = verify_signature(raw, PUBLIC)
    same = 0
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        try:
            found = verify_signature(bytes(changed), PUBLIC)
        except SignatureError:
            continue
        assert found == good
        same += 1
    assert same < 150  # white space, and what nobody signed: `hint`, `keyid`, `tlogEntries`


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"junk",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        public_pem(rsa.generate_private_key(65537, 2048)),
        public_pem(ed25519.Ed25519PrivateKey.generate()),
        public_pem(ec.generate_private_key(ec.SECP256K1())),
        Path("nowhere.pub"),
        "/",
    ],
)
def test_what_is_no_public_key_of_ours_is_named(signed: Path, key: Any) -> None:
    with pytest.raises(InputError, match=r"public key|elliptic curve"):
        Bundle.open(signed, key)


def test_a_private_key_is_not_taken_for_a_public_one(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a readable public key"):
        Bundle.open(signed, write_private(tmp_path / "key.pem", KEY))


def test_without_cryptography_the_remedy_is_said(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    Bundle.open(signed).verify()
    with pytest.raises(BackendError, match="pip install"):
        Bundle.open(signed, PUBLIC)
