"""Images for calibration and for evaluation: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet, load_path, sample, split
from vit_edge.vit.datasets import DATASETS


@dataclass(frozen=True)
class ExportData:
    """Calibration and evaluation images; evaluation labels are the model's class indices.

    `class_names` are the model's, where they are known.
    """

    calibration: ImageSet
    evaluation: ImageSet
    class_names: tuple[str, ...] | None


def find_data(
    calibration: str | None,
    evaluation: str | None,
    default: str,
    preprocess: Preprocess,
    classes: int,
    labels: tuple[str, ...] | None,
    calibration_size: int,
    seed: int,
) -> ExportData:
    """Loads both sets. One source named for both, or for one only, is split between them.

    Of a model of 0 classes labels are not indices: they say which images belong together, by which
    its embeddings can be judged. `labels` are the names of the model's classes, where its source
    knows them.

    Raises:
        InputError: if a source is missing, empty, unreadable or does not fit the model.
    """
    calibration = calibration or evaluation or default
    evaluation = evaluation or calibration
    if calibration in DATASETS:
        first = DATASETS[calibration]("calibration", preprocess)
    else:
        first = load_path(Path(calibration), preprocess)
    if evaluation in DATASETS:
        second = DATASETS[evaluation]("evaluation", preprocess)
    elif Path(evaluation).resolve() == Path(calibration).resolve():
        first, second = split(first, calibration_size, seed)
    else:
        second = load_path(Path(evaluation), preprocess)
    if classes == 0:
        second, names = replace(second, class_names=None), None
    else:
        second, names = _label_with_classes(second, classes, labels)
    return ExportData(sample(first, calibration_size, seed), second, names)


def _label_with_classes(
    images: ImageSet, classes: int, known: tuple[str, ...] | None
) -> tuple[ImageSet, tuple[str, ...] | None]:
    """Gives the labels the model's class indices.

    Folders named by numbers are indices, those named as the model's classes are these, others are
    in sorted order.
    """
    if images.labels is None:
        return images, known
    names = images.class_names
    if names is not None and all(name.isdecimal() for name in names):
        indices = np.array([int(name) for name in names], dtype=np.int64)
        images, names = replace(images, labels=indices[images.labels]), known
    elif names is not None and known is not None and set(names) <= set(known):
        indices = np.array([known.index(name) for name in names], dtype=np.int64)
        images, names = replace(images, labels=indices[images.labels]), known
    elif names is not None and len(names) != classes:
        raise InputError(
            f"{images.source} has {len(names)} class folders, the model {classes} classes: give "
            "a folder for each "
            "class, or name the folders by class index or as the model's classes"
        )
    assert images.labels is not None
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise InputError(
            f"{images.source} has labels from {images.labels.min()} to {images.labels.max()}, the "
            f"model's {classes} classes are 0 to {classes - 1}"
        )
    return images, names or known
