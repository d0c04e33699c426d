from __future__ import annotations

import numpy as np
import pytest

from vit_edge.export.accuracy import (
    Reference,
    assess,
    budget_problem,
    golden_tolerance,
    paired_interval,
)
from vit_edge.export.precision import PRECISIONS, Budget

EIGHT_BITS = Budget(max_logit_error=None, max_drop=0.5, min_agreement=0.985, min_cosine=0.99)
EXACT = Budget(max_logit_error=1e-3, max_drop=None, min_agreement=None, min_cosine=None)


def reference(labels: bool, images: int = 400) -> Reference:
    logits = np.random.default_rng(0).standard_normal((images, 10)).astype(np.float32)
    return Reference(logits, logits.argmax(axis=1) if labels else None, np.arange(images))


def flip(logits: np.ndarray, count: int) -> np.ndarray:
    """Makes the first images' best class another one."""
    flipped = logits.copy()
    rows = np.arange(count)
    flipped[rows, (logits[rows].argmax(axis=1) + 1) % 10] = 10
    return flipped


def test_the_same_logits_are_perfect() -> None:
    known = reference(labels=True)
    accuracy = assess(known.logits, known, "here")
    assert (accuracy.top1, accuracy.drop, accuracy.agreement) == (1.0, 0.0, 1.0)
    assert accuracy.cosine == pytest.approx(1)
    assert accuracy.logit_error == accuracy.rms_error == 0


def test_with_labels_the_drop_decides() -> None:
    known = reference(labels=True)
    good, bad = (assess(flip(known.logits, n), known, "here") for n in (2, 3))
    assert good.drop == pytest.approx(0.5)
    assert budget_problem(good, EIGHT_BITS, random_weights=False) is None
    assert "0.75 points" in str(budget_problem(bad, EIGHT_BITS, random_weights=False))


def test_without_labels_agreement_decides() -> None:
    known = reference(labels=False)
    good, bad = (assess(flip(known.logits, n), known, "here") for n in (6, 7))
    assert good.top1 is good.drop is None
    assert budget_problem(good, EIGHT_BITS, random_weights=False) is None
    assert "98.25%" in str(budget_problem(bad, EIGHT_BITS, random_weights=False))


def test_with_random_weights_the_cosine_decides() -> None:
    known = reference(labels=False)
    noise = np.random.default_rng(1).standard_normal(known.logits.shape).astype(np.float32)
    near, far = (assess(known.logits + size * noise, known, "here") for size in (0.1, 0.2))
    assert budget_problem(near, EIGHT_BITS, random_weights=True) is None
    assert "cosine" in str(budget_problem(far, EIGHT_BITS, random_weights=True))


def test_cosine_sees_through_an_offset_that_all_images_share() -> None:
    known = reference(labels=False)
    shared = Reference(known.logits * 0.01 + 100, None, known.golden)
    noise = np.random.default_rng(1).standard_normal(known.logits.shape).astype(np.float32)
    assert assess(shared.logits + 0.01 * noise, shared, "here").cosine < 0.9


def test_worst_logit_decides_for_fp32() -> None:
    known = reference(labels=False)
    off = known.logits.copy()
    off[3, 3] += 0.1
    assert "worst logit error" in str(budget_problem(assess(off, known, ""), EXACT, False))
    assert budget_problem(assess(known.logits + 1e-6, known, ""), EXACT, False) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_pass(bad: float) -> None:
    known = reference(labels=True)
    broken = known.logits.copy()
    broken[0, 0] = bad
    for random_weights in (False, True):
        problem = budget_problem(assess(broken, known, ""), EIGHT_BITS, random_weights)
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
    assert golden_tolerance(known.logits, known) == pytest.approx(1e-3)
    assert golden_tolerance(known.logits * 1.01, known) == pytest.approx(0.04, rel=0.01)


def test_the_users_drop_is_for_quantised_precisions() -> None:
    assert PRECISIONS["int8"].budget.with_max_drop(2.0).max_drop == 2.0
    assert PRECISIONS["int8"].budget.with_max_drop(None).max_drop == 0.5
    assert PRECISIONS["fp16"].budget.with_max_drop(2.0).max_drop == 0.2
