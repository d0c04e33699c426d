from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_edge.calibration.observers import INT8_MAX, METHODS, MSE, Histogram, MinMax, Percentile


def activations(seed: int, size: int = 20_000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def quantisation_error(values: np.ndarray, amax: float) -> float:
    scale = amax / INT8_MAX
    return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).mean())


@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(1, 999), max_size=5))
@settings(max_examples=25, deadline=None)
def test_result_does_not_depend_on_batches_or_their_order(seed: int, cuts: list[int]) -> None:
    values = activations(seed, 1000) * np.float32(10.0 ** (seed % 7 - 3))
    parts = [part for part in np.split(values, sorted(set(cuts))) if part.size]
    for method in METHODS.values():
        whole, pieces = method(), method()
        whole.update(values)
        for part in reversed(parts):
            pieces.update(part)
        assert whole.amax() == pieces.amax()


def test_minmax_is_the_largest_magnitude() -> None:
    observer = MinMax()
    observer.update(np.array([1.0, -3.0], dtype=np.float32))
    observer.update(np.array([2.0], dtype=np.float32))
    assert observer.amax() == 3.0


def test_percentile_cuts_off_a_rare_outlier() -> None:
    values = activations(0, 100_000)
    values[:5] = 1000
    observer = Percentile()
    observer.update(values)
    assert np.quantile(np.abs(values), 0.9999) <= observer.amax() + observer.width
    assert observer.amax() < 20


def test_mse_finds_the_best_range() -> None:
    values = activations(1)
    observer = MSE()
    observer.update(values)
    candidates = np.linspace(0.05, 1.2, 400) * np.abs(values).max()
    best = min(quantisation_error(values, amax) for amax in candidates)
    assert quantisation_error(values, observer.amax()) <= 1.02 * best


def test_entropy_keeps_the_bulk_and_drops_rare_outliers() -> None:
    values = activations(3, 200_000)
    plain = METHODS["entropy"]()
    plain.update(values)
    assert 2.5 < plain.amax() <= np.abs(values).max() * 1.01
    values[:3] = 500
    clipped = METHODS["entropy"]()
    clipped.update(values)
    assert clipped.amax() < 50


def test_mse_beats_minmax_with_outliers() -> None:
    values = activations(2, 400_000)
    values[0] = 20
    mse, minmax = MSE(), MinMax()
    for observer in (mse, minmax):
        observer.update(values)
    ours, plain = (quantisation_error(values, o.amax()) for o in (mse, minmax))
    assert ours < 0.8 * plain


def test_memory_does_not_grow() -> None:
    observer = Histogram()
    sizes = set()
    for exponent in range(-8, 20):
        observer.update(np.full(10, 2.0**exponent, dtype=np.float32))
        sizes.add(observer.counts.nbytes)
    assert len(sizes) == 1
    assert observer.counts.sum() == 280


def test_zeros_are_observed() -> None:
    for method in METHODS.values():
        observer = method()
        observer.update(np.zeros(5, dtype=np.float32))
        assert observer.amax() >= 0


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    for method in METHODS.values():
        with pytest.raises(ValueError, match="not finite"):
            method().update(np.array([1.0, bad], dtype=np.float32))
