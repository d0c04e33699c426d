"""Reads a bundle: every file is opened once, hashed, and exactly those bytes are used.

Nothing outside the folder is followed: paths are plain, and no component may be a link. No parser
and no native library sees a byte before its hash matched.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .manifest import GOLDEN, MANIFEST, MANIFEST_DIGEST, Manifest, parse_manifest

_MAX_MANIFEST_BYTES = 16 << 20
_REMEDY = "copy the bundle again, or export it again"


@dataclass(frozen=True)
class GoldenSamples:
    """Images with PyTorch's answers.

    Attributes:
        images: uint8 `[N, height, width, channels]`.
        logits: float32 `[N, outputs]` from PyTorch in fp32.
        labels: int64 `[N]`, or None where the evaluation images had none.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is verified; its files are verified as they are read."""

    path: Path
    digest: str
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads and verifies the manifest of the bundle at `path`.

        Raises:
            BundleError: if there is no bundle there, or its manifest is altered or not understood.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"there is no bundle at {folder}: make one with `vit-edge export`")
        raw = _read(folder, MANIFEST, _MAX_MANIFEST_BYTES)
        digest = hashlib.sha256(raw).hexdigest()
        if _read(folder, MANIFEST_DIGEST, 4096).split()[:1] != [digest.encode()]:
            raise BundleError(
                f"{folder / MANIFEST} was altered: its hash is not in {MANIFEST_DIGEST}; {_REMEDY}"
            )
        return cls(folder, digest, parse_manifest(raw))

    def read(self, name: str) -> bytes:
        """The verified bytes of a file that the manifest lists.

        Raises:
            BundleError: if it is missing, altered, truncated, or reached through a link.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"the manifest of {self.path} lists no file {name!r}")
        data = _read(self.path, name, entry.size)
        if len(data) != entry.size:
            raise BundleError(
                f"{self.path / name} has {len(data)} bytes, not {entry.size}: it is truncated; "
                f"{_REMEDY}"
            )
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path / name} was altered: its hash is not the manifest's; {_REMEDY}"
            )
        return data

    def verify(self) -> None:
        """Reads every file once, so that damage anywhere shows. Raises BundleError."""
        for name in self.manifest.files:
            self.read(name)

    def golden(self) -> GoldenSamples:
        """The golden samples. Raises BundleError if they do not fit the manifest."""
        try:
            with np.load(io.BytesIO(self.read(GOLDEN)), allow_pickle=False) as arrays:
                labels = arrays.get("labels")
                samples = GoldenSamples(arrays["images"], arrays["logits"], labels)
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(f"{GOLDEN} is not valid: {error}") from None
        spec, count = self.manifest.spec, len(samples.images)
        fits = (
            count > 0
            and samples.images.dtype == np.uint8
            and samples.images.shape == (count, *spec.image_shape)
            and samples.logits.dtype == np.float32
            and samples.logits.shape == (count, spec.outputs)
            and (samples.labels is None or samples.labels.shape == (count,))
        )
        if not fits:
            raise BundleError(
                f"{GOLDEN} does not fit the manifest: images {samples.images.shape}; {_REMEDY}"
            )
        return samples


def _read(folder: Path, name: str, limit: int) -> bytes:
    """At most `limit + 1` bytes of a regular file inside `folder`, following no link."""
    *parents, last = name.split("/")
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for part in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # O_NONBLOCK: opening a pipe that somebody put there must not hang.
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    except FileNotFoundError:
        raise BundleError(f"{folder / name} is missing; {_REMEDY}") from None
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read ({error.strerror}); {_REMEDY}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise BundleError(f"{folder / name} is not a regular file; {_REMEDY}")
    with os.fdopen(file, "rb") as stream:
        if status.st_size > limit:
            raise BundleError(
                f"{folder / name} has {status.st_size} bytes, not at most {limit}; {_REMEDY}"
            )
        return stream.read(min(limit, status.st_size) + 1)
