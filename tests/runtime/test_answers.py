from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from scipy.special import softmax as scipy_softmax

from tests.specs import vector
from vit_edge.runtime.answers import Answer, TopK, cosine_similarity, softmax, unit_length
from vit_edge.runtime.errors import InputError

LABELS = ("cat", "dog", "emu")
TOP = TopK(LABELS, vector("logits", len(LABELS)))
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_the_likeliest_come_first_with_names_and_probabilities() -> None:
    best = TOP(np.log(np.array([0.2, 0.7, 0.1], np.float32)), 2)
    assert [(a.label, a.index) for a in best] == [("dog", 1), ("cat", 0)]
    assert [a.probability for a in best] == pytest.approx([0.7, 0.2])


def test_without_names_a_class_is_its_index() -> None:
    assert TopK(None, vector("logits", 100))([1.0, 3.0], 1) == (
        Answer("1", 1, pytest.approx(0.8808, abs=1e-4)),
    )


def test_equals_stay_in_order_and_more_than_all_is_all() -> None:
    best = TopK(None, vector("logits", 100))([5.0, 7.0] * 50, 1000)
    assert [a.index for a in best] == [*range(1, 100, 2), *range(0, 100, 2)]


def test_differences_that_probabilities_lose_still_count() -> None:
    assert [a.index for a in TOP([-2000.0, 0.0, -1000.0])] == [1, 2, 0]


def test_a_batch_is_answered_image_by_image() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert TOP.each(scores, 2) == tuple(TOP(row, 2) for row in scores)


@given(arrays(np.float32, (3, 7), elements=FINITE))
@settings(max_examples=200, deadline=None)
def test_softmax_is_scipys(scores: np.ndarray) -> None:
    expected = scipy_softmax(scores.astype(np.float64), axis=-1)
    np.testing.assert_allclose(softmax(scores), expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: TOP([1.0, np.nan, 2.0]), "not finite.*`vit-edge check`"),
        (lambda: TOP([1.0, np.inf, 2.0]), "not finite"),
        (lambda: TOP(np.zeros((1, 3))), r"shape \[1, 3\], not \[classes\].* `top.each`"),
        (lambda: TOP(1.0), r"shape \[\]"),
        (lambda: TOP([]), "there is none"),
        (lambda: TOP(["a", "b", "c"]), "no numbers"),
        (lambda: TOP([1.0, 2.0]), "of 2 classes, the model has 3"),
        (lambda: TOP([1.0, 2.0, 3.0], 0), "k is 0"),
        (lambda: TOP.each([1.0, 2.0, 3.0]), r"not \[N, classes\]"),
        (lambda: TopK(None, vector("features", 2))([1.0, 2.0]), "features, not classes"),
        (lambda: unit_length([[0.0, 0.0]]), "all zero"),
        (lambda: unit_length([[np.nan, 0.0]]), "features are not finite"),
        (lambda: cosine_similarity([[1.0, 2.0]], [[1.0]]), r"\[1, 2\] and \[1, 1\]"),
    ],
)
def test_what_cannot_be_answered_is_said(call, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=named):
        call()


def test_likeness_is_the_cosine() -> None:
    random = np.random.default_rng(0)
    left, right = random.normal(size=(3, 8)), random.normal(size=(5, 8))
    found = cosine_similarity(left, right)
    np.testing.assert_allclose(found, 1 - cdist(left, right, "cosine"), atol=1e-12)
    assert np.diag(cosine_similarity(left, left)) == pytest.approx(1)


@given(arrays(np.float64, (2, 4), elements=st.floats(-1e300, 1e300)))
@settings(max_examples=200, deadline=None)
def test_any_features_get_length_1(features: np.ndarray) -> None:
    if (features == 0).all(axis=1).any():
        return
    assert np.linalg.norm(unit_length(features), axis=1) == pytest.approx(1)
