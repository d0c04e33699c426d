from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vit_edge.calibration import collect as module
from vit_edge.calibration.collect import LayerSampler, load_samples, save_samples

VALUES = np.random.default_rng(0).standard_normal((7, 20, 6)).astype(np.float32)


def gather(values: np.ndarray, batch: int) -> module.LayerSamples:
    sampler = LayerSampler(len(values))
    for start in range(0, len(values), batch):
        sampler.update(values[start : start + batch])
    return sampler.result()


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 35)
    got, whole = gather(VALUES, batch), gather(VALUES, 7)
    np.testing.assert_array_equal(got.rows, whole.rows)
    np.testing.assert_array_equal(got.channel_amax, np.abs(VALUES).max(axis=(0, 1)))


def test_every_image_gives_its_class_token_and_as_many_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 35)
    rows = gather(VALUES, 2).rows.reshape(7, 5, 6)
    np.testing.assert_array_equal(rows[:, 0], VALUES[:, 0])
    assert (
        len({tuple(np.flatnonzero((VALUES[i] == r).all(1))[0] for r in rows[i]) for i in range(7)})
        > 1
    )


def test_memory_is_bounded_whatever_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 8)
    many = np.ones((50, 3, 2), np.float32)
    assert gather(many, 5).rows.shape == (8, 2)


def test_samples_survive_their_files(tmp_path: Path) -> None:
    samples = {"a/LayerNormalization": gather(VALUES, 7), "b": gather(VALUES[:2], 2)}
    save_samples(tmp_path, samples)
    again = load_samples(tmp_path)
    assert list(again) == list(samples)
    for name, layer in samples.items():
        np.testing.assert_array_equal(again[name].rows, layer.rows)
        np.testing.assert_array_equal(again[name].channel_amax, layer.channel_amax)


def test_tokens_that_go_furthest_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 70)
    values = VALUES.copy()
    values[:, 13, 2] = 50  # larger than all else
    values[:, :, 5] /= 1000
    values[:, 17, 5] = 0.5  # large for its channel alone
    rows = gather(values, 3).rows.reshape(7, 10, 6)
    assert (rows[:, :, 2].max(axis=1) == 50).all()
    assert (rows[:, :, 5].max(axis=1) == 0.5).all()
