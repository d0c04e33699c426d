"""Signs a bundle with OpenSSF Model Signing (`model-signing`), so that devices can demand it."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import BackendError, InputError, install_command
from ..files import write_whole
from ..manifest import MANIFEST, MANIFEST_DIGEST, RELEASE, SIGNATURE
from ..schema import encode
from ..trust import Release, SignedRelease, load_public_key, verify_folder

_MAX_KEY_BYTES = 1 << 16


def add_sign_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sign`."""
    parser.add_argument("--private-key", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--release", type=int, required=True, metavar="N", help="devices refuse lower ones later"
    )
    parser.add_argument("--name", help="what the releases are of; default: the bundle's name")


def run_sign(arguments: argparse.Namespace) -> int:
    """Writes a signature into the bundle."""
    print(sign_bundle(arguments.bundle, arguments.private_key, arguments.release, arguments.name))
    return 0


def sign_bundle(
    path: Path, private_key: Path, number: int, name: str | None = None
) -> SignedRelease:
    """Signs the bundle at `path`: writes `release.json` and `model.sig` into it.

    Args:
        path: A bundle; every file of it is verified first.
        private_key: PEM file of an ECDSA key on P-256, P-384 or P-521; the password of an encrypted
            one is asked for.
        number: The release; devices refuse lower ones of the same key and name.
        name: What the releases are of; None is the bundle's own name.

    Returns:
        What was signed, verified with the public key.

    Raises:
        BackendError: if `model-signing` is not installed.
        BundleError: if the bundle is damaged.
        InputError: if the key or the number is no good, or the folder holds files of others.
    """
    model_signing = _load_library()
    bundle = Bundle.open(path)
    bundle.verify()
    _require_no_other_files(bundle)
    try:
        release = Release(name or bundle.manifest.name, number)
    except ValueError as error:
        raise InputError(f"--release or --name: {error}") from None
    public_key, password = _open_key(private_key)
    hashing = model_signing.hashing.Config().set_ignored_paths(
        paths=[SIGNATURE], ignore_git_paths=False
    )
    try:
        (path / SIGNATURE).unlink(missing_ok=True)
        write_whole(path / RELEASE, encode(release).encode(), mode=0o644)
        signer = model_signing.signing.Config().set_hashing_config(hashing)
        signer.use_elliptic_key_signer(private_key=private_key, password=password)
        signer.sign(path, path / SIGNATURE)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be signed: {error}") from None
    # Not `Bundle.open`: rollback state is per device and does not apply to signing.
    signed = verify_folder(bundle.folder, public_key)
    return signed.read_release(bundle.folder, bundle.manifest, bundle.digest)


def _load_library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise BackendError(
            f"signing needs model-signing ({error}): {install_command('signing')}"
        ) from None
    return model_signing


def _require_no_other_files(bundle: Bundle) -> None:
    """Refuses a folder with files that the bundle does not list: the whole folder is signed."""
    own = {*bundle.manifest.files, MANIFEST, MANIFEST_DIGEST, RELEASE, SIGNATURE}
    entries = [p for p in bundle.path.rglob("*") if p.is_symlink() or not p.is_dir()]
    others = sorted({str(p.relative_to(bundle.path)) for p in entries} - own)
    if others:
        raise InputError(f"{bundle.path} holds files that are not the bundle's: {others[:5]}")


def _open_key(private_key: Path) -> tuple[bytes, bytes | None]:
    """The public key in PEM, and the private key's password if it has one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        with open(private_key, "rb") as file:
            pem = file.read(_MAX_KEY_BYTES)
        encrypted = b"ENCRYPTED" in pem
        password = getpass.getpass(f"password of {private_key}: ").encode() if encrypted else None
        public = load_pem_private_key(pem, password).public_key()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{private_key} is not a readable private key ({error})") from None
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    load_public_key(pem)  # says which kinds of keys will do
    return pem, password
