"""Images for calibration and for evaluation: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.classes import match_folders, order_classes
from vit_edge.runtime.tools.images import ImageSet, load_path, sample, split
from vit_edge.vit.datasets import DATASETS


@dataclass(frozen=True)
class ExportData:
    """Calibration and evaluation images; evaluation labels are the model's class indices.

    Attributes:
        class_names: The model's, where they are known.
        folders: Class folders of the evaluation images, and the class index of each.
        notes: How folders became classes, in words.
    """

    calibration: ImageSet
    evaluation: ImageSet
    class_names: tuple[str, ...] | None
    folders: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def find_data(
    calibration: str | ImageSet | None,
    evaluation: str | ImageSet | None,
    default: str,
    preprocess: Preprocess,
    classes: int,
    labels: tuple[str, ...] | None,
    calibration_size: int,
    seed: int,
    folders: tuple[tuple[str, int], ...] | None = None,
) -> ExportData:
    """Loads both sets. One source named for both, or for one only, is split between them.

    Of a model of 0 classes labels are not indices: they say which images belong together, by which
    its embeddings can be judged. `labels` are the names of the model's classes, where its source
    knows them; `folders` are pairs of a folder and its class index, where the user gives them.

    Raises:
        InputError: if a source is missing, empty, unreadable or does not fit the model.
    """
    calibration = calibration or evaluation or default
    evaluation = evaluation or calibration
    first = _load(calibration, "calibration", preprocess)
    if _same_source(calibration, evaluation):
        first, second = split(first, calibration_size, seed)
    else:
        second = _load(evaluation, "evaluation", preprocess)
    first = sample(first, calibration_size, seed)
    if classes == 0:
        return ExportData(first, replace(second, class_names=None), None)
    if second.labels is None:
        return ExportData(first, second, labels)
    if second.class_names is None:
        _require_labels(second, classes)
        return ExportData(first, second, labels)
    match = match_folders(
        second.source,
        second.class_names,
        labels,
        classes,
        None if folders is None else dict(folders),
    )
    indices = np.array(match.indices, dtype=np.int64)
    pairs = tuple(zip(second.class_names, match.indices, strict=True))
    names = labels
    if match.assumed and labels is None:
        names = order_classes(second.class_names)
    second = replace(second, labels=indices[second.labels], class_names=names)
    note = f"class folders of {second.source}: {match.how}"
    note += " (assumed: the model does not name its classes)" if match.assumed else ""
    return ExportData(first, second, names, pairs, (note,))


def _load(data: str | ImageSet, part: str, preprocess: Preprocess) -> ImageSet:
    if not isinstance(data, ImageSet):
        known = DATASETS.get(data)
        return load_path(Path(data), preprocess) if known is None else known(part, preprocess)
    shape = data.read(data.indices[0]).shape
    if shape != preprocess.shape:
        raise InputError(
            f"{data.source} are {list(shape)}, the model takes {list(preprocess.shape)} (height, "
            "width, channels): give them in that size, or a folder of image files"
        )
    return data


def _same_source(one: str | ImageSet, other: str | ImageSet) -> bool:
    """Tells whether both are one set of images without parts of its own."""
    if isinstance(one, ImageSet) or isinstance(other, ImageSet):
        return (
            isinstance(one, ImageSet) and isinstance(other, ImageSet) and one.origin == other.origin
        )
    return other not in DATASETS and Path(one).resolve() == Path(other).resolve()


def _require_labels(images: ImageSet, classes: int) -> None:
    """Raises InputError for labels that are no class indices."""
    assert images.labels is not None
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise InputError(
            f"{images.source} has labels from {images.labels.min()} to {images.labels.max()}, the "
            f"model's {classes} classes are 0 to {classes - 1}"
        )
