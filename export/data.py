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
        notes: How folders were mapped to classes, in words.
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
    """Loads both sets. If only one source is named, or the same for both, it is split.

    For a model with 0 classes, labels are not class indices: they tell which images belong
    together, which is used to judge its embeddings. `labels` are the names of the model's classes,
    if its source knows them; `folders` are pairs of a folder and its class index, if the user gives
    them.

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
    """True if both are the same images, and not a data set with a part for each purpose."""
    if isinstance(one, ImageSet) or isinstance(other, ImageSet):
        return (
            isinstance(one, ImageSet) and isinstance(other, ImageSet) and one.origin == other.origin
        )
    return other not in DATASETS and Path(one).resolve() == Path(other).resolve()


def _require_labels(images: ImageSet, classes: int) -> None:
    """Raises InputError for labels that are not class indices."""
    assert images.labels is not None
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise InputError(
            f"{images.source} has labels from {images.labels.min()} to {images.labels.max()}, the "
            f"model's {classes} classes are 0 to {classes - 1}"
        )
