"""Labelled images from folders and `.npz` files, decoded on demand."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_line
from ..preprocess import Preprocess
from .classes import order_classes

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
OTHER_IMAGES = (
    ".avif",
    ".dng",
    ".exr",
    ".heic",
    ".heif",
    ".jp2",
    ".jxl",
    ".nef",
    ".cr2",
    ".svg",
    ".tga",
)
"""Suffixes of images that are not read here."""


@dataclass(frozen=True)
class ImageSet:
    """Images by index, all of one shape.

    Attributes:
        source: What they are, in words.
        origin: Identifies the content of the source without decoding it, for caches.
        read: Gives image `i` as uint8 `[height, width, channels]`.
        indices: Which images of the source, in order.
        labels: int64 `[len(self)]`, or None.
        class_names: Names of the labels, or None where the labels already are the model's class
            indices.
    """

    source: str
    origin: str
    read: Callable[[int], NDArray[np.uint8]]
    indices: tuple[int, ...]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Yields uint8 `[n, height, width, channels]` with n <= size."""
        for start in range(0, len(self), size):
            yield np.stack([self.read(i) for i in self.indices[start : start + size]])

    def subset(self, positions: Sequence[int]) -> ImageSet:
        """The images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[list(positions)]
        return replace(self, indices=tuple(self.indices[p] for p in positions), labels=labels)

    def label_list(self) -> list[int] | None:
        return None if self.labels is None else self.labels.tolist()

    def digest(self) -> str:
        """SHA-256 of the decoded images and the labels."""
        state = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for batch in self.batches(64):
            state.update(repr(batch.shape).encode() + batch.tobytes())
        return state.hexdigest()


def from_array(
    source: str, images: NDArray[np.uint8], labels: NDArray[np.int64] | None
) -> ImageSet:
    """Images uint8 `[N, height, width, channels]` that are in memory already."""
    origin = hashlib.sha256(
        images.tobytes() + (b"" if labels is None else labels.tobytes())
    ).hexdigest()
    return ImageSet(source, origin, images.__getitem__, tuple(range(len(images))), labels)


def split(images: ImageSet, first: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """A seeded random split into `first` images, at most half of them all, and the rest.

    Raises:
        InputError: if there are fewer than two images.
    """
    if len(images) < 2:
        raise InputError(
            f"{images.source} has {len(images)} image(s): calibration and evaluation need one each"
        )
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    cut = min(first, len(images) // 2)
    return images.subset(sorted(order[:cut])), images.subset(sorted(order[cut:]))


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """A seeded random choice of at most `count` images."""
    if len(images) <= count:
        return images
    return images.subset(
        sorted(np.random.default_rng(seed).permutation(len(images))[:count].tolist())
    )


@dataclass(frozen=True)
class FolderListing:
    """Image files in order; where folders are classes, labels int64 `[len(files)]` and names.

    `passed_over` are files that are no images.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    passed_over: tuple[Path, ...]

    @property
    def remark(self) -> str:
        """Counts the files that are passed over, in words; "" where there is none."""
        count = len(self.passed_over)
        if not count:
            return ""
        more = "" if count == 1 else f" and {count - 1} more"
        return f"{self.passed_over[0].name}{more} passed over, which are no images"


def list_folder(path: Path) -> FolderListing:
    """Lists a folder of images, or of one folder of images per class; no image is opened.

    Classes are in the order of `order_classes`. Hidden files are passed over; other files that are
    no images are too, and are listed.

    Raises:
        InputError: if there are no images, or images beside class folders, or ones of a kind that
            is not read here.
    """
    entries = sorted(e for e in path.iterdir() if not e.name.startswith("."))
    folders = {e.name: e for e in entries if e.is_dir()}
    classes = [folders[name] for name in order_classes(folders)]
    outside, others = _image_files(path)
    if classes and outside:
        raise InputError(
            f"{path} holds class folders and images ({outside[0].name}): keep one or the other"
        )
    deeper = [
        inner for c in classes for inner in c.iterdir() if inner.is_dir() and inner.name[0] != "."
    ]
    if deeper:
        raise InputError(
            f"{deeper[0]} is a folder inside a class folder: images lie one level deep"
        )
    labelled = [(file, -1) for file in outside]
    for index, folder in enumerate(classes):
        inside, more = _image_files(folder)
        labelled += [(file, index) for file in inside]
        others += more
    if not labelled:
        raise InputError(f"{path} holds no images ({', '.join(EXTENSIONS)})")
    files = tuple(file for file, _ in labelled)
    if not classes:
        return FolderListing(files, None, None, tuple(others))
    labels = np.array([k for _, k in labelled], dtype=np.int64)
    return FolderListing(files, labels, tuple(c.name for c in classes), tuple(others))


def load_folder(path: Path, preprocess: Preprocess) -> ImageSet:
    """The images that `list_folder` finds, decoded on demand. Raises InputError as it does."""
    listing = list_folder(path)
    stats = [
        (str(f.relative_to(path)), s.st_size, s.st_mtime_ns)
        for f in listing.files
        for s in [f.stat()]
    ]
    origin = hashlib.sha256(repr((preprocess, stats)).encode()).hexdigest()
    read = lambda i: preprocess.read(listing.files[i])  # noqa: E731 (a closure over two names)
    indices = tuple(range(len(listing.files)))
    remark = f" ({listing.remark})" if listing.remark else ""
    return ImageSet(
        f"folder {path.name}{remark}", origin, read, indices, listing.labels, listing.class_names
    )


def _image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the images in a folder, and the other files. Raises InputError for images of a kind
    that is not read here, which would be missed.
    """
    files = sorted(f for f in folder.iterdir() if not f.name.startswith(".") and not f.is_dir())
    images = [f for f in files if f.suffix.lower() in EXTENSIONS]
    # is_file: a pipe would hang, and a link to nothing is no image.
    unread = [f for f in files if f.suffix.lower() in OTHER_IMAGES]
    unread += [f for f in images if not f.is_file()]
    if unread:
        raise InputError(
            f"{unread[0]} is not an image that is read here, nor are {len(unread) - 1} others in "
            f"{folder}: convert them to one of {', '.join(EXTENSIONS)}, or take them away"
        )
    return images, [f for f in files if f.suffix.lower() not in EXTENSIONS]


_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, RuntimeError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Errors of numpy for an archive that is none, or is damaged somewhere."""


def load_npz(path: Path, preprocess: Preprocess) -> ImageSet:
    """An `.npz` with `images` uint8 `[N, height, width, channels]` and optional `labels` int `[N]`.

    Raises:
        InputError: if the file cannot be read or its arrays do not fit the model's input.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays.get("labels")
    except _DAMAGE as error:
        reason = first_line(error)
        raise InputError(f"{path} is not an .npz file with uint8 `images` ({reason})") from None
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | None):
        raise InputError(f"{path}: `images` or `labels` is no array, but some other file")
    if images.dtype != np.uint8 or images.shape[1:] != preprocess.shape or not len(images):
        raise InputError(
            f"{path}: `images` is {images.dtype} {list(images.shape)}, the model takes uint8 [N, "
            f"{', '.join(map(str, preprocess.shape))}] with N > 0"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise InputError(
            f"{path}: `labels` is {labels.dtype} {list(labels.shape)}, not int [{len(images)}]"
        )
    return from_array(
        f"file {path.name}", images, None if labels is None else labels.astype(np.int64)
    )


def load_path(path: Path, preprocess: Preprocess) -> ImageSet:
    """Images from a folder or an `.npz` file. Raises InputError if there is neither at `path`."""
    if path.is_dir():
        return load_folder(path, preprocess)
    if path.suffix == ".npz" and path.is_file():
        return load_npz(path, preprocess)
    raise InputError(f"there is no image folder and no .npz file at {path}")
