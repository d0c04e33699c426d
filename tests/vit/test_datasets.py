from __future__ import annotations

import numpy as np
import pytest

from vit_edge.runtime.errors import InputError
from vit_edge.vit.datasets import DIGITS_SPLITS, digits, samples
from vit_edge.vit.variants import find_variant

DIGITS = find_variant("vit_digits").preprocess
PHOTOGRAPHS = find_variant("vit_test_patch8_32").preprocess


def test_digits_splits_share_no_image_position_and_cover_all() -> None:
    sizes = [len(digits(split, DIGITS)) for split in DIGITS_SPLITS]
    positions = np.arange(1797)
    parts = [positions[part] for part in DIGITS_SPLITS.values()]
    assert sorted(np.concatenate(parts).tolist()) == positions.tolist()
    assert sizes == [len(part) for part in parts]


def test_digits_use_the_whole_range_of_a_byte() -> None:
    images = next(digits("evaluation", DIGITS).batches(600))
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)


def test_digits_refuse_a_model_of_another_shape() -> None:
    with pytest.raises(InputError, match="8x8"):
        digits("evaluation", PHOTOGRAPHS)


def test_calibration_and_evaluation_crops_come_from_different_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uses a photograph whose pixels hold their own column, which shows the crops' origin."""
    import sklearn.datasets

    column = np.broadcast_to(np.arange(640)[None, :, None] // 3, (427, 640, 3)).astype(np.uint8)

    class Photographs:
        images = (column, column)

    monkeypatch.setattr(sklearn.datasets, "load_sample_images", Photographs)
    calibration = next(samples("calibration", PHOTOGRAPHS).batches(128))
    evaluation = next(samples("evaluation", PHOTOGRAPHS).batches(64))
    assert calibration.max() <= 384 // 3 < evaluation.min() + 3


def test_sets_are_the_same_every_time() -> None:
    assert samples("calibration", PHOTOGRAPHS).origin == samples("calibration", PHOTOGRAPHS).origin
    assert digits("train", DIGITS).digest() == digits("train", DIGITS).digest()
