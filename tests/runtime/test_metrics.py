from __future__ import annotations

import time

import numpy as np
import pytest

from tests.specs import compare_logits
from vit_edge.runtime.metrics import TimingBudget, measure_latency
from vit_edge.runtime.outputs import image_centred


def test_metrics_of_known_logits() -> None:
    reference = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    logits = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32)
    metrics = compare_logits(logits, reference, np.array([0, 1, 1, 0]))
    assert metrics.reference_top1 == 0.5
    assert metrics.top1 == 0.75
    assert metrics.agreement == 0.75
    assert metrics.logit_error == 1.0
    assert metrics.rms_error == pytest.approx(np.sqrt(2 / 8) / 0.5)


def test_rows_that_are_not_finite_agree_with_nothing() -> None:
    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[0, 0] = np.nan
    metrics = compare_logits(logits, reference, np.arange(4))
    assert metrics.agreement == metrics.top1 == 0.75
    assert metrics.cosine == 0
    assert metrics.rms_error == np.inf


def test_a_single_image_is_not_centred() -> None:
    one = np.array([[1.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(image_centred(one), one)


def test_latency_counts_its_calls() -> None:
    calls: list[int] = []
    latency = measure_latency(lambda: calls.append(1), TimingBudget(runs=7, seconds=0.0))
    assert latency.runs == 7
    assert len(calls) > latency.runs
    assert latency.p50_ms <= latency.p90_ms <= latency.p99_ms


@pytest.mark.parametrize(("took", "uncounted"), [(0.07, 1), (0.025, 3), (0.01, 6)])
def test_calls_do_not_count_until_time_has_passed(
    monkeypatch: pytest.MonkeyPatch, took: float, uncounted: int
) -> None:
    calls: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: len(calls) * took)
    latency = measure_latency(lambda: calls.append(took), TimingBudget(runs=2, seconds=0.0))
    assert latency.runs == 2
    assert len(calls) - latency.runs == uncounted


def test_few_images_of_one_class_are_judged_by_the_spread_of_all() -> None:
    generator = np.random.default_rng(0)
    everything = generator.standard_normal((64, 10)).astype(np.float32)
    alike = everything[:1] + 0.001 * generator.standard_normal((8, 10)).astype(np.float32)
    logits = alike + np.float32(0.01)
    assert compare_logits(logits, alike, None).rms_error > 1
    assert compare_logits(logits, alike, None, population=everything).rms_error < 0.02
