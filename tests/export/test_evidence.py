"""Verdicts that few or uniform images cannot carry."""

from __future__ import annotations

import numpy as np
import pytest

from tests.specs import reference_of, vector
from vit_edge.export.accuracy import assess
from vit_edge.export.evidence import (
    find_weakness,
    lowest_rate,
    remarks_on_calibration,
    remarks_on_reference,
)
from vit_edge.export.precision import PRECISIONS, Budget
from vit_edge.runtime.tools.images import from_array

INT8, FP16, FP32 = (PRECISIONS[name].budget for name in ("int8", "fp16", "fp32"))
OUTPUTS = (vector("logits", 4),)


def weakness(images: int, budget: Budget, labels: bool = False, flips: int = 0) -> str | None:
    values = np.random.default_rng(0).standard_normal((images, 4)).astype(np.float32)
    known = reference_of(values, values.argmax(axis=1) if labels else None)
    other = values.copy()
    rows = np.arange(flips)
    other[rows, (values[rows].argmax(axis=1) + 1) % 4] = 9
    return find_weakness(assess(other, known, "here"), OUTPUTS, budget, random_weights=False)


def test_the_interval_is_exact() -> None:
    assert lowest_rate(10, 10) == pytest.approx(0.05 ** (1 / 10))
    assert lowest_rate(0, 10) == 0
    rng = np.random.default_rng(0)
    covered = [lowest_rate(int(rng.binomial(60, 0.9)), 60) <= 0.9 for _ in range(2000)]
    assert 0.95 <= np.mean(covered) < 0.99


@pytest.mark.parametrize(
    ("images", "budget", "labels", "weak"),
    [
        (10, INT8, False, "10 images; 16 are the fewest"),
        (100, INT8, False, "agreement may be as low as 97.05 %, the budget is 98.50 %; about 2"),
        (400, INT8, False, None),
        (400, FP16, False, "the budget is 99.50 %; about 6"),
        (700, FP16, False, None),
        (200, INT8, True, "top-1 may drop by 0.97 points, the budget is 0.50; about 4"),
        (500, INT8, True, None),
        (10, FP32, True, None),
    ],
)
def test_few_images_prove_little(
    images: int, budget: Budget, labels: bool, weak: str | None
) -> None:
    told = weakness(images, budget, labels)
    assert told is None if weak is None else weak in str(told)


@pytest.mark.parametrize("labels", [False, True])
def test_the_number_that_would_do_does(labels: bool) -> None:
    told = weakness(300, INT8, labels, flips=1)
    assert told is not None
    enough = int(told.rpartition("about ")[2].split()[0])
    assert enough > 300
    assert weakness(enough, INT8, labels, flips=round(enough / 300)) is None


def test_a_rate_on_the_budget_is_never_enough() -> None:
    assert "no number of images would do" in str(weakness(200, INT8, flips=3))


def test_random_weights_claim_nothing_of_classes() -> None:
    values = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    accuracy = assess(values, reference_of(values), "here")
    assert find_weakness(accuracy, OUTPUTS, INT8, random_weights=True) is None


def test_a_model_that_always_says_the_same_is_said() -> None:
    values = np.tile(np.array([0, 5, 1, 2], np.float32), (50, 1))
    (told,) = remarks_on_reference(reference_of(values))
    assert "class 1 to 100.00 % of the evaluation images" in told
    labels = np.array([1] * 30 + [2] * 20)
    told = " ".join(remarks_on_reference(reference_of(values, labels)))
    assert "no better than always answering class 1 (60.00 %)" in told
    one = " ".join(remarks_on_reference(reference_of(values, np.ones(50, np.int64))))
    assert "all evaluation images are of class 1" in one


def test_a_good_model_is_not_remarked_on() -> None:
    values = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    assert list(remarks_on_reference(reference_of(values, values.argmax(axis=1)))) == []


def test_calibration_images_that_are_alike_are_said() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    assert list(remarks_on_calibration(from_array("a", frames, labels))) == []
    (same,) = remarks_on_calibration(from_array("a", np.repeat(frames[:1], 9, axis=0), None))
    assert "the same one" in same
    (one_class,) = remarks_on_calibration(from_array("a", frames, np.zeros(12, np.int64)))
    assert "of one class" in one_class
    (one,) = remarks_on_calibration(from_array("a", frames[:1], None))
    assert "has 1 image" in one
