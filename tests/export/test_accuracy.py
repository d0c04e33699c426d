from __future__ import annotations

import numpy as np
import pytest

from tests.specs import reference_of, vector
from vit_edge.export.accuracy import (
    Reference,
    assess,
    find_problem,
    golden_tolerances,
    paired_interval,
)
from vit_edge.export.precision import PRECISIONS, Budget
from vit_edge.runtime.manifest import Accuracy

EIGHT_BITS = Budget(max_logit_error=None, max_drop=0.5, min_agreement=0.985, min_cosine=0.99)
EXACT = Budget(max_logit_error=1e-3, max_drop=None, min_agreement=None, min_cosine=None)


def reference(labels: bool, images: int = 400) -> Reference:
    logits = np.random.default_rng(0).standard_normal((images, 10)).astype(np.float32)
    return reference_of(logits, logits.argmax(axis=1) if labels else None)


def assess_logits(values: np.ndarray, known: Reference) -> Accuracy:
    return assess(values, known, "here")["logits"]


def problem_of(accuracy: Accuracy, budget: Budget, random_weights: bool) -> str | None:
    output = vector("logits", 10)
    return find_problem({"logits": accuracy}, (output,), budget, random_weights)


def flip(logits: np.ndarray, count: int) -> np.ndarray:
    """Makes the first images' best class another one."""
    flipped = logits.copy()
    rows = np.arange(count)
    flipped[rows, (logits[rows].argmax(axis=1) + 1) % 10] = 10
    return flipped


def test_the_same_logits_are_perfect() -> None:
    known = reference(labels=True)
    accuracy = assess(known.values, known, "here")["logits"]
    assert (accuracy.top1, accuracy.drop, accuracy.agreement) == (1.0, 0.0, 1.0)
    assert accuracy.cosine == pytest.approx(1)
    assert accuracy.logit_error == accuracy.rms_error == 0


def test_with_labels_the_drop_decides() -> None:
    known = reference(labels=True)
    good, bad = (assess_logits(flip(known.values, n), known) for n in (2, 3))
    assert good.drop == pytest.approx(0.5)
    assert problem_of(good, EIGHT_BITS, False) is None
    assert "0.75 points" in str(problem_of(bad, EIGHT_BITS, False))


def test_without_labels_agreement_decides() -> None:
    known = reference(labels=False)
    good, bad = (assess_logits(flip(known.values, n), known) for n in (6, 7))
    assert good.top1 is good.drop is None
    assert problem_of(good, EIGHT_BITS, False) is None
    assert "98.25%" in str(problem_of(bad, EIGHT_BITS, False))


def test_with_random_weights_the_cosine_decides() -> None:
    known = reference(labels=False)
    noise = np.random.default_rng(1).standard_normal(known.values.shape).astype(np.float32)
    near, far = (assess_logits(known.values + size * noise, known) for size in (0.1, 0.2))
    assert problem_of(near, EIGHT_BITS, True) is None
    assert "cosine" in str(problem_of(far, EIGHT_BITS, True))


def test_cosine_sees_through_an_offset_that_all_images_share() -> None:
    known = reference(labels=False)
    shared = reference_of(known.values * 0.01 + 100)
    noise = np.random.default_rng(1).standard_normal(known.values.shape).astype(np.float32)
    assert assess_logits(shared.values + 0.01 * noise, shared).cosine < 0.9


def test_worst_logit_decides_for_fp32() -> None:
    known = reference(labels=False)
    off = known.values.copy()
    off[3, 3] += 0.1
    assert "worst logit error" in str(problem_of(assess_logits(off, known), EXACT, False))
    assert problem_of(assess_logits(known.values + 1e-6, known), EXACT, False) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_pass(bad: float) -> None:
    known = reference(labels=True)
    broken = known.values.copy()
    broken[0, 0] = bad
    for random_weights in (False, True):
        problem = problem_of(assess_logits(broken, known), EIGHT_BITS, random_weights)
        assert problem is not None
        assert "not finite" in problem


def test_interval_covers_the_truth_about_19_times_of_20() -> None:
    generator, covered, rounds = np.random.default_rng(0), 0, 2000
    for _ in range(rounds):
        lost, won, _ = generator.multinomial(600, [0.02, 0.01, 0.97])
        low, high = paired_interval(int(lost), int(won), 600)
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / rounds <= 0.985


def test_interval_of_no_flips_is_not_certainty() -> None:
    low, high = paired_interval(0, 0, 100)
    assert low < -0.5 < 0.5 < high


def test_tolerance_follows_what_was_measured() -> None:
    known = reference(labels=False)
    assert golden_tolerances(known.values, known)["logits"] == pytest.approx(1e-3)
    assert golden_tolerances(known.values * 1.01, known)["logits"] == pytest.approx(0.04, rel=0.01)


def test_the_users_drop_is_for_quantised_precisions() -> None:
    assert PRECISIONS["int8"].budget.with_max_drop(2.0).max_drop == 2.0
    assert PRECISIONS["int8"].budget.with_max_drop(None).max_drop == 0.5
    assert PRECISIONS["fp16"].budget.with_max_drop(2.0).max_drop == 0.2
