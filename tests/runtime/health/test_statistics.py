"""The statistics are what they are called, by numpy's plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy import stats as scipy_stats

from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import KINDS, OutputSpec
from vit_edge.runtime.tools.health.statistics import (
    input_names,
    measure,
    measure_frames,
    measure_output,
    output_names,
    statistic_names,
)

GENERATOR = np.random.default_rng(0)


def frames_of(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, np.ndarray]:
    assert values.dtype == np.float32
    return dict(zip(names, values.T, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (33, 20), (224, 224)])
def test_frames_by_definition(size: tuple[int, int], channels: int) -> None:
    frames = frames_of(4, *size, channels)
    own = by_name(input_names(channels), measure_frames(frames))
    step = [max(1, edge // 32) for edge in size]
    places = np.ix_(*(range(s // 2, e - 1, s) for s, e in zip(step, size, strict=True)))
    for index, frame in enumerate(frames.astype(np.float64)):
        grid = frame[places]
        below = np.roll(frame, -1, axis=0)[places]
        beside = np.roll(frame, -1, axis=1)[places]
        detail = np.log2(1 + (((grid - below) ** 2).mean() + ((grid - beside) ** 2).mean()) / 2)
        rows, columns = grid.shape[:2]
        middle = grid[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
        expected = {
            "detail": detail,
            "sharpness": detail - np.log2(1 + grid.var(axis=(0, 1)).mean()),
            "clipped": ((grid == 0) | (grid == 255)).mean(),
            "centre - edge": middle.mean() - grid.mean(),
        }
        for channel, prefix in enumerate(("red ", "green ", "blue ") if channels == 3 else ("",)):
            expected[f"{prefix}brightness"] = grid[..., channel].mean()
            expected[f"{prefix}contrast"] = grid[..., channel].std()
        if channels == 3:
            expected["saturation"] = (grid.max(axis=2) - grid.min(axis=2)).mean()
            expected["red - blue"] = grid[..., 0].mean() - grid[..., 2].mean()
        assert expected.keys() == own.keys()
        for name, value in expected.items():
            assert own[name][index] == pytest.approx(value, rel=1e-4, abs=1e-3), name


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2)])
def test_tiny_frames_have_finite_statistics(size: tuple[int, int]) -> None:
    assert np.isfinite(measure_frames(frames_of(2, *size, 3))).all()


def test_a_frame_alone_gives_what_it_gives_among_others() -> None:
    frames = frames_of(5, 40, 40, 3)
    alone = np.concatenate([measure_frames(frame[None]) for frame in frames])
    np.testing.assert_allclose(measure_frames(frames), alone, rtol=1e-5, atol=1e-4)


def test_classes_by_definition() -> None:
    logits = GENERATOR.normal(size=(7, 20)).astype(np.float32) * 5
    spec = OutputSpec("scores", "logits", (20,))
    own = by_name(output_names(spec), measure_output(logits, spec))
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    expected = {
        "confidence of scores": probabilities.max(axis=1),
        "entropy of scores": scipy_stats.entropy(probabilities, axis=1),
        "class of scores": logits.argmax(axis=1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(own[name], values, rtol=1e-4, atol=1e-5)
    spec = OutputSpec("scores", "probabilities", (20,))
    again = measure_output(probabilities.astype(np.float32), spec)
    np.testing.assert_allclose(again, np.stack(list(expected.values()), axis=1), 1e-4, 1e-5)


def test_labels_by_definition() -> None:
    logits = GENERATOR.normal(size=(7, 20)).astype(np.float32) * 3
    spec = OutputSpec("tags", "multilabel", (20,))
    own = by_name(output_names(spec), measure_output(logits, spec))
    odds = special.expit(logits.astype(np.float64))
    np.testing.assert_allclose(own["labels of tags"], (odds > 0.5).sum(axis=1))
    sure = np.maximum(odds, 1 - odds).mean(axis=1)
    np.testing.assert_allclose(own["confidence of tags"], sure, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("embedding", (48,)),
        ("tokens", (9, 16)),
        ("map", (3, 8, 8)),
        ("boxes", (5, 4)),
        ("value", (3,)),
    ],
)
def test_other_outputs_have_mean_and_spread(kind: str, shape: tuple[int, ...]) -> None:
    values = GENERATOR.normal(2, 3, size=(6, *shape)).astype(np.float32)
    spec = OutputSpec("out", kind, shape)
    own = by_name(output_names(spec), measure_output(values, spec))
    flat = values.reshape(6, -1)
    np.testing.assert_allclose(own["mean of out"], flat.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(own["spread of out"], flat.std(axis=1), rtol=1e-5)


def test_a_single_number_has_no_spread_and_large_maps_are_sampled() -> None:
    spec = OutputSpec("age", "value", ())
    assert output_names(spec) == ("mean of age",)
    assert measure_output(np.array([3.0, 4.0], np.float32), spec).tolist() == [[3.0], [4.0]]
    large = GENERATOR.normal(size=(1, 200, 200)).astype(np.float32)
    (own,) = measure_output(large, OutputSpec("depth", "map", (200, 200)))
    np.testing.assert_allclose(own, [large.mean(), large.std()], atol=0.05)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_show(kind: str, bad: float) -> None:
    shape = {"tokens": (4, 4), "map": (4, 4), "boxes": (4, 4)}.get(kind, (16,))
    values = np.full((2, *shape), 0.25, np.float32)
    values[1].flat[3] = bad
    measured = measure_output(values, OutputSpec("out", kind, shape))
    assert np.isfinite(measured[0]).all()
    assert np.isnan(measured[1]).all()


def test_frames_on_a_gpu_have_no_statistics_but_their_outputs() -> None:
    class OnGpu:
        shape = (2, 8, 8, 1)

    spec = EngineSpec("x", (OutputSpec("out", "embedding", (4,)),), (8, 8, 1), (1, 1, 1))
    outputs = {"out": np.ones((2, 4), np.float32)}
    rows = by_name(statistic_names(spec), measure(OnGpu(), outputs, spec))
    assert np.isnan(rows["brightness"]).all()
    assert rows["mean of out"].tolist() == [1.0, 1.0]
