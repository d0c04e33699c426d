"""Comparison of outputs by their kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vit_edge.runtime.outputs import KINDS, OutputSpec, compare, pack, spread, worst_violation

RNG = np.random.default_rng(0)


def noisy(values: np.ndarray, size: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(values.shape)
    return (values + size * noise).astype(np.float32)


def one(kind: str, shape: tuple[int, ...], scale: float | None = None) -> OutputSpec:
    return OutputSpec("out", kind, shape, scale)


SHAPES = {
    "logits": (10,),
    "probabilities": (10,),
    "multilabel": (6,),
    "label_probabilities": (6,),
    "value": (3,),
    "embedding": (16,),
    "tokens": (7, 5),
    "map": (4, 6, 6),
    "boxes": (9, 4),
}


def values_of(kind: str, images: int = 40) -> np.ndarray:
    values = RNG.standard_normal((images, *SHAPES[kind])).astype(np.float32)
    return 1 / (1 + np.exp(-values)) if "probabilities" in kind or kind == "boxes" else values


def metrics_of(kind: str, values: np.ndarray, reference: np.ndarray, labels=None):  # type: ignore[no-untyped-def]
    output = one(kind, SHAPES[kind])
    return compare(pack([values]), pack([reference]), (output,), labels)["out"]


def test_all_kinds_are_tried() -> None:
    assert SHAPES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", SHAPES)
def test_errors_grow_with_noise(kind: str) -> None:
    reference = values_of(kind)
    none, little, much = (
        metrics_of(kind, noisy(reference, size), reference) for size in (0, 0.01, 0.5)
    )
    assert none.rms_error < little.rms_error < much.rms_error
    assert none.logit_error < little.logit_error < much.logit_error
    assert none.rms_error == none.logit_error == 0
    assert none.cosine == pytest.approx(1)
    assert much.cosine < little.cosine
    if KINDS[kind].decide is None:
        assert none.agreement is little.agreement is None
    else:
        assert none.agreement == 1
        assert (much.agreement or 0) < 0.9


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_agrees_with_nothing(kind: str, bad: float) -> None:
    reference = values_of(kind)
    broken = reference.copy()
    broken[3].flat[0] = bad
    metrics = metrics_of(kind, broken, reference)
    assert (metrics.rms_error, metrics.logit_error, metrics.cosine) == (np.inf, np.inf, 0)
    assert metrics.agreement is None or metrics.agreement < 1


def test_pixels_agree_by_their_class() -> None:
    reference = np.zeros((2, 3, 4, 4), np.float32)
    reference[:, 1] = 1
    values = reference.copy()
    values[0, 2, :2] = 2  # 8 of 32 pixels
    output = one("map", (3, 4, 4))
    metrics = compare(pack([values]), pack([reference]), (output,))["out"]
    assert metrics.agreement == 24 / 32


def test_a_map_of_one_channel_decides_nothing() -> None:
    values = RNG.standard_normal((3, 4, 4)).astype(np.float32)
    metrics = compare(pack([values]), pack([values]), (one("map", (4, 4)),))["out"]
    assert metrics.agreement is None


def test_neighbours_of_an_embedding() -> None:
    """Two groups far apart: their classes are found, and a swap within a group is seen."""
    groups = np.repeat(np.eye(2, 8), 20, axis=0) * 10
    reference = (groups + RNG.standard_normal((40, 8))).astype(np.float32)
    labels = np.repeat([4, 9], 20)
    exact = metrics_of_embedding(reference, reference, labels)
    assert exact.reference_top1 == exact.top1 == exact.agreement == 1
    shuffled = reference[np.random.default_rng(2).permutation(40)]
    broken = metrics_of_embedding(shuffled, reference, labels)
    assert (broken.top1 or 0) < 0.8
    assert (broken.agreement or 0) < 0.5
    weak = metrics_of_embedding(noisy(reference, 0.3), reference, labels)
    assert weak.top1 == 1
    assert (weak.agreement or 0) < 1


def metrics_of_embedding(values, reference, labels):  # type: ignore[no-untyped-def]
    return compare(values, reference, (one("embedding", (8,)),), labels)["out"]


def test_labels_are_ranked_against_the_references_decisions() -> None:
    reference = np.array([[2, -1], [1, 3], [-1, -2], [-3, 4]], np.float32)
    output = one("multilabel", (2,))
    assert compare(reference, reference, (output,))["out"].average_precision == 1
    worse = np.array([[2, 5], [-4, 3], [-1, -2], [-3, 4]], np.float32)
    metrics = compare(worse, reference, (output,))["out"]
    # Label 0: found at ranks 1 and 4. Label 1: at ranks 2 and 3.
    assert metrics.average_precision == pytest.approx(((1 + 2 / 4) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert metrics.agreement == 6 / 8


def test_one_token_that_is_wrong_is_the_worst() -> None:
    reference = values_of("tokens")
    values = reference.copy()
    values[:, 4] += 1
    metrics = metrics_of("tokens", values, reference)
    assert metrics.logit_error == pytest.approx(1 / spread(reference))
    assert metrics.rms_error == pytest.approx(np.sqrt(1 / 7) / spread(reference))


@pytest.mark.parametrize(
    "frames",
    [lambda r: np.repeat(r[:1], 8, axis=0), lambda r: r[:1] + 1e-6 * r[:8], lambda r: r[:1]],
    ids=["all alike", "hardly different", "one image"],
)
def test_images_that_hardly_differ_are_judged_by_the_scale(
    frames: Callable[[np.ndarray], np.ndarray],
) -> None:
    everything = values_of("logits")
    reference = frames(everything).astype(np.float32)
    output = one("logits", (10,), spread(everything))
    metrics = compare(noisy(reference, 0.01), reference, (output,))["out"]
    assert 0.005 < metrics.rms_error < 0.02
    assert metrics.cosine > 0.999
    assert metrics.logit_error < 0.05
    far = compare(noisy(reference, 1.0), reference, (output,))["out"]
    assert far.rms_error > 0.5
    assert far.cosine < 0.9


def test_the_output_that_is_furthest_off_is_named() -> None:
    outputs = (OutputSpec("a", "value", (1,), 1.0), OutputSpec("b", "value", (1,), 1.0))
    reference = np.zeros((2, 2), np.float32)
    values = reference + np.array([0.1, 0.5], np.float32)
    metrics = compare(values, reference, outputs)
    assert worst_violation(metrics, {"a": 0.2, "b": 0.6}) is None
    found = worst_violation(metrics, {"a": 0.05, "b": 0.1})
    assert found == ("b", pytest.approx(0.5), 0.1)
    nan = compare(np.full_like(values, np.nan), reference, outputs)
    assert worst_violation(nan, {"a": 0.2, "b": 0.6}) is not None


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("logits", (2, 3)), ("map", (4,)), ("boxes", (3, 5)), ("tokens", (3,)), ("logits", (0,))],
)
def test_shapes_that_no_kind_has_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out|sizes"):
        one(kind, shape)
