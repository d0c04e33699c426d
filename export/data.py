"""Which images calibrate and which evaluate: never the same ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.images import ImageSet, load_path, sample, split
from runtime.preprocess import Preprocess
from vit.datasets import DATASETS


@dataclass(frozen=True)
class ExportData:
    """Calibration and evaluation images; evaluation labels are the model's class indices."""

    calibration: ImageSet
    evaluation: ImageSet
    class_names: tuple[str, ...] | None


def find_data(
    calibration: str | None,
    evaluation: str | None,
    default: str,
    preprocess: Preprocess,
    classes: int,
    calibration_size: int,
    seed: int,
) -> ExportData:
    """Loads both sets. One source named for both, or for one only, is split between them.

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
    second, names = _label_with_classes(second, classes)
    return ExportData(sample(first, calibration_size, seed), second, names)


def _label_with_classes(images: ImageSet, classes: int) -> tuple[ImageSet, tuple[str, ...] | None]:
    """Gives the labels the model's class indices.

    Folders named by numbers are indices, others are in sorted order.
    """
    if images.labels is None:
        return images, None
    names = images.class_names
    if names is not None and all(name.isdecimal() for name in names):
        indices = np.array([int(name) for name in names], dtype=np.int64)
        images, names = replace(images, labels=indices[images.labels]), None
    elif names is not None and len(names) != classes:
        raise InputError(
            f"{images.source} has {len(names)} class folders, the model {classes} classes: give "
            "a folder for each "
            "class, or name the folders by class index"
        )
    assert images.labels is not None
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise InputError(
            f"{images.source} has labels up to {images.labels.max()}, the model has {classes} "
            "classes"
        )
    return images, names
