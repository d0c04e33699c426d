"""A model repository of Triton, written whole from the verified bytes of a bundle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...bundle import Bundle
from ...errors import BundleError, InputError, first_line
from ...manifest import GOLDEN, MANIFEST, MANIFEST_DIGEST, RELEASE, SIGNATURE
from ..folders import recover, sibling, swap_in
from .config import (
    BUNDLE_FOLDER,
    DECODE,
    IMAGES,
    LABELS,
    Serving,
    decode_config,
    frames_config,
    images_config,
    to_text,
    warmup_file,
    warmup_sizes,
)

RECORD = "vit-edge.json"
"""Lists what was written, with hashes. Triton passes over files beside the models' folders."""
CONFIG = "config.pbtxt"
_CACHES = "__pycache__"
_MAX_SIGNATURE_BYTES = 4 << 20


@dataclass(frozen=True)
class Repository:
    """A model repository that was written.

    Attributes:
        folder: Where it lies.
        models: Names of its models.
        files: SHA-256 in hex of every file, by its path in the folder.
    """

    folder: Path
    models: tuple[str, ...]
    files: dict[str, str]


def write_repository(serving: Serving, out: Path, decode: bool = False) -> Repository:
    """Writes a model repository as the folder `out`, replacing the one that was written there.

    Args:
        serving: What is served, and how.
        out: The repository's folder.
        decode: Adds models that take the bytes of image files.

    Raises:
        InputError: if `out` holds anything that this function did not write, or cannot be written.
        BundleError: if the bundle is damaged, or what was written does not read back.
        BackendError: if `tritonclient` is not installed.
    """
    out = Path(os.path.abspath(out))  # the current folder can be swapped by its name alone
    try:
        recover(out, RECORD)
        require_own(out)
        with sibling(out) as folder:
            written = _write(serving, folder, decode)
            swap_in(folder, out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or first_line(error)}): choose another place"
        ) from None
    return replace(written, folder=out)


def _write(serving: Serving, folder: Path, decode: bool) -> Repository:
    writer = _Writer(folder)
    _write_frames_model(serving, writer)
    models = [serving.name]
    if decode:
        _write_images_models(serving, writer)
        models += [serving.name + DECODE, serving.name + IMAGES]
    record = {"bundle_sha256": serving.bundle.digest, "models": models, "files": writer.files}
    (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    _require_written(folder, writer.files)
    return Repository(folder, tuple(models), writer.files)


def require_own(out: Path) -> None:
    """Raises InputError if `out` exists and is neither empty nor a repository that was written
    here and is as it was written.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is not a folder: choose another place")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        written = (out / RECORD).read_bytes()
        record = json.loads(written)
        files = {RECORD: _sha256(written), **record["files"]}
        # Of an ensemble nothing lies in the folder of its version.
        places = {out / f"{model}/1" for model in record["models"]}
        folders = places.union(
            *((out / file).parents for file in files), *(p.parents for p in places)
        )
        present = {path.relative_to(out).as_posix(): path for path in out.rglob("*")}
        others = sorted(
            name for name, path in present.items() if not _is_own(path, files.get(name), folders)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{out} holds other things than a model repository of vit-edge: choose another place"
        ) from None
    if others:
        raise InputError(
            f"{out} holds {others[0]}, which vit-edge did not write, or which was edited since "
            f"({len(others)} in all): move it away, or choose another place"
        )


def _is_own(path: Path, digest: str | None, folders: set[Path]) -> bool:
    """True of a file with this hash, a folder in which files were written, and Python's caches."""
    if path.is_symlink():
        return False
    if path.is_dir():
        return path in folders or (path.name == _CACHES and path.parent in folders)
    if path.parent.name == _CACHES and path.parent.parent in folders:
        return path.suffix == ".pyc"
    return digest == _sha256(path.read_bytes())


class _Writer:
    """Writes files into a folder, and keeps their hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> str:
        """Returns the SHA-256 of the file in hex."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files[name] = _sha256(data)
        return self.files[name]


def _write_frames_model(serving: Serving, writer: _Writer) -> None:
    """Writes the model that takes frames: its file, configuration, samples and class names."""
    bundle, part, version = serving.bundle, serving.part, serving.version_folder
    file = f"{version}/{part.target.file}"
    if not part.target.like:
        digest = writer.write(file, _source("engine_model.py"))
        _copy_bundle(bundle, f"{version}/{BUNDLE_FOLDER}", writer)
    elif part.engine is not None:
        digest = writer.write(file, bundle.read(part.engine.file))
    else:
        assert part.graph is not None
        data, external = bundle.read_graph(part.graph)
        digest = writer.write(file, data)
        for name, content in external.items():
            writer.write(f"{version}/{name}", bytes(content))
    if part.target.like:
        writer.write(f"{serving.name}/{serving.golden_file}", bundle.read(GOLDEN))
    images = bundle.golden().images
    for size in warmup_sizes(serving):
        batch = images[np.arange(size) % len(images)]
        writer.write(f"{serving.name}/warmup/{warmup_file(size)}", batch.tobytes())
    _write_labels(serving, serving.name, writer)
    writer.write(f"{serving.name}/{CONFIG}", to_text(frames_config(serving, digest)))


def _write_images_models(serving: Serving, writer: _Writer) -> None:
    """Writes the step that decodes image files, and the ensemble of it and the model."""
    step, ensemble = serving.name + DECODE, serving.name + IMAGES
    writer.write(f"{step}/1/model.py", _source("decode_model.py"))
    _copy_manifest(serving.bundle, f"{step}/1/{BUNDLE_FOLDER}", writer)
    writer.write(f"{step}/{CONFIG}", to_text(decode_config(serving)))
    # Triton wants a version's folder of every model, and none of its files for an ensemble.
    (writer.folder / ensemble / "1").mkdir(parents=True)
    _write_labels(serving, ensemble, writer)
    writer.write(f"{ensemble}/{CONFIG}", to_text(images_config(serving)))


def _source(name: str) -> bytes:
    """Reads a module of this package that runs in the server."""
    return Path(__file__).with_name(name).read_bytes()


def _write_labels(serving: Serving, model: str, writer: _Writer) -> None:
    labels = serving.bundle.manifest.labels
    if labels is not None:
        writer.write(f"{model}/{LABELS}", "".join(f"{label}\n" for label in labels).encode())


def _copy_bundle(bundle: Bundle, place: str, writer: _Writer) -> None:
    """Writes the verified bytes of every file, and of a signed bundle its signature."""
    for name in bundle.manifest.files:
        writer.write(f"{place}/{name}", bundle.read(name))
    _copy_manifest(bundle, place, writer)
    for name in (RELEASE, SIGNATURE):
        if (bundle.path / name).is_file():
            data = bundle.folder.read(name, _MAX_SIGNATURE_BYTES)
            writer.write(f"{place}/{name}", data)


def _copy_manifest(bundle: Bundle, place: str, writer: _Writer) -> None:
    """Writes the manifest, which is enough of a bundle to prepare images."""
    for name in (MANIFEST, MANIFEST_DIGEST):
        writer.write(f"{place}/{name}", bundle.folder.read(name, _MAX_SIGNATURE_BYTES))
    if writer.files[f"{place}/{MANIFEST}"] != bundle.digest:
        raise BundleError(f"{bundle.path} was replaced while it was read: start again")


def _require_written(folder: Path, files: dict[str, str]) -> None:
    """Reads every file again. Raises BundleError if one is not as it was written."""
    for name, digest in files.items():
        if _sha256((folder / name).read_bytes()) != digest:
            raise BundleError(f"{folder / name} does not read back as it was written: try again")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
