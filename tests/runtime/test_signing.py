"""`vit-edge sign` writes what Model Signing's own verifier takes, and what the runtime demands."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from vit_edge.runtime import BackendError, BundleError, InputError
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.signing import sign_bundle
from vit_edge.runtime.trust import RELEASE, SIGNATURE, SeenReleases

from .keys import public_pem, write_private


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The private key's file; the public one lies beside it as `key.pub`."""
    private = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pub").write_bytes(public_pem(private))
    return write_private(tmp_path / "key.pem", private)


def theirs(bundle: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """Model Signing's own command line."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bundle)]
    options = ["--signature", str(bundle / SIGNATURE), "--public_key", str(key.with_suffix(".pub"))]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_what_is_signed_verifies_here_and_with_model_signing_itself(
    bundle: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sign", str(bundle), "--private-key", str(key), "--release", "4"]
    assert main(arguments) == 0
    assert "release 4 of vit_digits" in capsys.readouterr().out
    public = key.with_suffix(".pub")
    Bundle.open(bundle, public).verify()
    assert main(["inspect", str(bundle), "--public-key", str(public)]) == 0
    assert "signed: release 4" in capsys.readouterr().out
    done = theirs(bundle, key)
    assert done.returncode == 0, done.stderr
    (bundle / "golden.npz").write_bytes(b"other")
    assert theirs(bundle, key).returncode != 0


def test_every_command_can_demand_a_signature(
    bundle: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = str(key.with_suffix(".pub"))
    for command, more in (
        ("check", []), ("compare", []), ("inspect", []), ("build", ["--target", "tensorrt"]),
        ("run", ["x.png"]),
    ):  # fmt: skip
        assert main([command, str(bundle), *more, "--public-key", public]) == 2
        assert "is not signed" in capsys.readouterr().err


def test_signing_again_replaces_the_signature(bundle: Path, key: Path) -> None:
    digest = Bundle.open(bundle).digest
    for number in (1, 2):
        signed = sign_bundle(bundle, key, number, "door camera")
        assert (signed.release.number, signed.release.name) == (number, "door camera")
    assert Bundle.open(bundle).digest == digest
    assert {p.name for p in bundle.iterdir() if p.suffix in (".new", ".sig")} == {SIGNATURE}


def test_the_signers_own_machine_does_not_matter(bundle: Path, key: Path) -> None:
    signed = sign_bundle(bundle, key, 9)
    SeenReleases.here().remember(signed.key, signed.release)
    sign_bundle(bundle, key, 8)


def test_an_encrypted_key_asks_for_its_password(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_private(tmp_path / "k.pem", ec.generate_private_key(ec.SECP384R1()), b"secret")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "secret")
    sign_bundle(bundle, key, 1)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "wrong")
    with pytest.raises(InputError, match="not a readable private key"):
        sign_bundle(bundle, key, 1)


@pytest.mark.parametrize("name", ["onnx/more.onnx", ".git/config", ".gitignore", "link"])
def test_a_folder_with_other_files_is_not_signed(bundle: Path, key: Path, name: str) -> None:
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    if name == "link":
        path.symlink_to("manifest.json")
    else:
        path.touch()
    with pytest.raises(InputError, match="not the bundle's"):
        sign_bundle(bundle, key, 1)
    assert not (bundle / SIGNATURE).exists()


def test_a_damaged_bundle_is_not_signed(bundle: Path, key: Path) -> None:
    (bundle / "golden.npz").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"altered|truncated"):
        sign_bundle(bundle, key, 1)
    assert not (bundle / RELEASE).exists()


def test_a_file_that_changes_while_it_is_signed_is_found(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Bundle, "verify", lambda self: (bundle / "golden.npz").write_bytes(b"other")
    )
    with pytest.raises(BundleError, match=r"golden\.npz is not what was signed"):
        sign_bundle(bundle, key, 1)


@pytest.mark.parametrize("number", [0, -1, 1 << 63])
def test_a_release_out_of_range_is_named(bundle: Path, key: Path, number: int) -> None:
    with pytest.raises(InputError, match="is not between"):
        sign_bundle(bundle, key, number)


@pytest.mark.parametrize("private", [rsa.generate_private_key(65537, 2048), b"junk", None])
def test_what_is_no_private_key_of_ours_is_named(
    bundle: Path, tmp_path: Path, private: Any
) -> None:
    path = tmp_path / "k.pem"
    if isinstance(private, bytes):
        path.write_bytes(private)
    elif private is not None:
        write_private(path, private)
    with pytest.raises(InputError, match=r"private key|cannot be signed|elliptic"):
        sign_bundle(bundle, path, 1)


def test_without_the_library_the_remedy_is_said(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(BackendError, match=r"pip install 'model-signing>=1\.1'"):
        sign_bundle(bundle, key, 1)


def test_the_release_is_plain_json(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, key, 12)
    assert json.loads((bundle / RELEASE).read_text()) == {"name": "vit_digits", "number": 12}
