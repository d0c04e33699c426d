"""Image folders `<class>/<image>` to train on: listed, checked and split, nothing decoded."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.display import say
from vit_edge.runtime.tools.images import list_folder

HELD_BACK = 0.2
_READERS = 8
READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and their classes.

    Attributes:
        labels: int64 `[len(files)]`, indices into `class_names`.
        class_names: The class folders' names, in the order of `order_classes`.
    """

    folder: Path
    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, positions: NDArray[np.int64]) -> LabelledFiles:
        files = tuple(self.files[p] for p in positions)
        return LabelledFiles(self.folder, files, self.labels[positions], self.class_names)

    def digest(self) -> str:
        """Hashes the files' names and sizes; nothing is read."""
        names = [(f.relative_to(self.folder).as_posix(), f.stat().st_size) for f in self.files]
        return hashlib.sha256(repr(names).encode()).hexdigest()[:12]


def find_files(folder: Path) -> LabelledFiles:
    """Lists a folder of class folders, and says which files are passed over.

    Raises:
        InputError: if the folder is missing, mixed, or holds no class folders.
    """
    if not folder.is_dir():
        raise InputError(f"there is no image folder at {folder}")
    listing = list_folder(folder)
    if listing.remark:
        say(f"{folder}: {listing.remark}")
    if listing.labels is None or listing.class_names is None:
        raise InputError(f"{folder} has no class folders: training needs <class>/<image>")
    return LabelledFiles(folder, listing.files, listing.labels, listing.class_names)


def check_classes(data: LabelledFiles) -> None:
    """Raises InputError if there are fewer than two classes, or one without images."""
    names = data.class_names
    if len(names) < 2:
        raise InputError(
            f"{data.folder} has one class folder ({names[0]}): training needs two or more"
        )
    counts = np.bincount(data.labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise InputError(
            f"{data.folder} has no images of class {', '.join(empty)}: add some or remove it"
        )


def hold_back(data: LabelledFiles, seed: int) -> tuple[LabelledFiles, LabelledFiles]:
    """Splits into training and validation images; a seeded share of every class is held back.

    Raises:
        InputError: if a class has one image.
    """
    training, validation = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for label, name in enumerate(data.class_names):
        positions = np.flatnonzero(data.labels == label)
        if len(positions) < 2:
            raise InputError(
                f"{data.folder} has one image of class {name}: add some, or give --eval a folder "
                "of its own"
            )
        order = np.random.default_rng([seed, label]).permutation(positions)
        count = max(1, round(HELD_BACK * len(positions)))
        validation.append(order[:count])
        training.append(order[count:])
    return (
        data.subset(np.sort(np.concatenate(training))),
        data.subset(np.sort(np.concatenate(validation))),
    )


def match_classes(data: LabelledFiles, class_names: tuple[str, ...]) -> LabelledFiles:
    """Labels the same files by these class names; a class may be without images.

    Raises:
        InputError: if there are other classes.
    """
    unknown = [name for name in data.class_names if name not in class_names]
    if unknown:
        raise InputError(
            f"{data.folder} has classes that are not trained on: {', '.join(unknown[:10])}"
        )
    indices = np.array([class_names.index(name) for name in data.class_names], dtype=np.int64)
    return LabelledFiles(data.folder, data.files, indices[data.labels], class_names)


def check_headers(data: LabelledFiles) -> None:
    """Opens every file, which finds most damage before hours are spent; pixels are not decoded.

    Raises:
        InputError: naming the first file that is not a readable image.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        errors = list(pool.map(_damage, data.files))
    bad = [(file, error) for file, error in zip(data.files, errors, strict=True) if error]
    if bad:
        others = f", and so {len(bad) - 1} more in {data.folder}" if len(bad) > 1 else ""
        raise InputError(f"{unreadable(*bad[0])}{others}")


def _damage(file: Path) -> Exception | None:
    """Returns the error of an image file, as far as its header and checksums tell; else None."""
    try:
        with Image.open(file) as image:
            image.verify()
    except READ_ERRORS as error:
        return error
    return None


def unreadable(file: Path, error: Exception) -> InputError:
    """Returns the error that names a file."""
    reason = str(error).replace(str(file), "it")
    return InputError(f"{file} is not a readable image ({reason}): remove or replace it")
