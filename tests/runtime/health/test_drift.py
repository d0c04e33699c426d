"""Drift is seen, and images like the reference's are not called drift."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime import Engine, InputError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.health import DriftMonitor, DriftReport
from vit_edge.runtime.tools.health.judge import fewest_images, judge
from vit_edge.runtime.tools.health.statistics import (
    ReferenceStatistics,
    class_labels,
    input_names,
    measure_frames,
)
from vit_edge.runtime.tools.health.words import describe
from vit_edge.vit.datasets import digits
from vit_edge.vit.variants import find_variant

from .colors import DRIFTS, crops


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    names = input_names(3)
    values = measure_frames(crops(400, 1))
    return ReferenceStatistics(names, values, tuple(range(len(names))), "crops")


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    """Images of which the digits model has seen none, but the evaluation's that are its bundle's
    reference.
    """
    images = digits("calibration", find_variant("vit_digits").preprocess)
    return next(images.batches(len(images)))


def drifted(reports: Any) -> list[str]:
    return [report.name for report in reports if report.drifted]


@pytest.mark.parametrize(("window", "every"), [(0, 1), (2.5, 1), (8, 0), (8, 2.5)])
def test_numbers_out_of_range_are_refused(window: Any, every: Any, bundle_source: Path) -> None:
    with pytest.raises(InputError, match=r"window is|every is"):
        DriftMonitor(bundle_source, window, every)


def test_names_of_classes_are_those_of_their_output_alone() -> None:
    logits, other = (OutputSpec(name, "logits", (3,)) for name in ("logits", "weather"))
    spec = EngineSpec("images", (logits, other), (8, 8, 1), (1, 8, 8))
    names = ("class of logits", "class of weather")
    before = np.zeros((200, 2), np.float32)
    labels = class_labels(spec, ("cat", "dog", "cow"))
    reports = judge(ReferenceStatistics(names, before, (0, 1), ""), before[:50] + 1, 1e-4, labels)
    assert [report.subject for report in reports] in (["cat", "0"], ["dog", "1"])


@pytest.mark.parametrize("name", DRIFTS)
def test_drifts_of_a_color_camera_are_seen_and_named(
    reference: ReferenceStatistics, name: str
) -> None:
    distort, words = DRIFTS[name]
    rows = measure_frames(distort(crops(128, 9)))
    reports = judge(reference, rows, 1e-4)
    assert drifted(reports)
    assert re.search(words, "\n".join(describe(reports, reference, rows)))


def test_clean_windows_are_no_drift(reference: ReferenceStatistics) -> None:
    """At a rate of one in a hundred, of which 20 windows have more than 2 with a probability of
    0.001.
    """
    rows = measure_frames(crops(20 * 48, 2)).reshape(20, 48, -1)
    alarms = [window for window in rows if drifted(judge(reference, window, 1e-2))]
    assert len(alarms) <= 2
    reports = judge(reference, rows[0], 1e-4)
    assert (drifted(reports), describe(reports, reference, rows[0])) == ([], ())


def test_small_references_widen_the_limits(reference: ReferenceStatistics) -> None:
    rows = measure_frames(DRIFTS["darker"][0](crops(128, 9)))

    def probability(images: int) -> float:
        few = ReferenceStatistics(reference.names, reference.values[:images], reference.columns, "")
        return min(report.probability for report in judge(few, rows, 1e-4))

    found = [probability(images) for images in (1, 2, 8, 400)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.1 > found[1] > 1e-3 > found[2] > 1e-12 > found[3]
    few = ReferenceStatistics(reference.names, reference.values[:2], reference.columns, "")
    least = fewest_images(few, 1e-4)
    assert least is not None
    assert least > 500
    assert fewest_images(reference, 1e-4) == 3


def test_a_difference_that_is_sure_but_small_is_no_drift(reference: ReferenceStatistics) -> None:
    generator = np.random.default_rng(0)
    names = ("brightness",)
    values = generator.normal(100, 10, (20000, 1)).astype(np.float32)
    reports = judge(ReferenceStatistics(names, values[:10000], (0,), ""), values[10000:] + 1, 1e-4)
    assert reports[0].probability < 1e-6
    assert not reports[0].drifted


def observe(bundle: Path, frames: np.ndarray, **options: Any) -> DriftReport:
    monitor = DriftMonitor(bundle, every=1, **options)
    with Engine.load(bundle, "fp32", "onnxruntime", observer=monitor) as engine:
        engine(frames)
    return monitor.report()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_held_out_images_are_no_drift_in_any_precision(
    bundle_source: Path, held_out: np.ndarray, precision: str
) -> None:
    monitor = DriftMonitor(bundle_source, every=1)
    with Engine.load(bundle_source, precision, observer=monitor) as engine:
        for start in range(0, len(held_out), 32):
            engine(held_out[start : start + 32])
    report = monitor.report()
    assert not report.drift, str(report)
    assert (report.images, report.reference_images, report.verdict) == (128, 600, ())
    assert report.source == "scikit-learn digits (evaluation)"
    assert str(report).startswith("no drift: 128 images beside 600 of scikit-learn digits")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x * 0.75).astype(np.uint8), "the images are darker"),
        (lambda x: 255 - x, "the images are brighter"),
        (lambda x: np.rot90(x, 1, (1, 2)), "the model is less sure"),
        (lambda x: np.roll(x, 2, axis=2), "middle is darker"),
        (lambda x: np.repeat(x[:1], len(x), axis=0), "frozen camera"),
    ],
)
def test_drifts_of_digits_are_seen(
    bundle_source: Path, held_out: np.ndarray, change: Any, words: str
) -> None:
    report = observe(bundle_source, change(held_out))
    assert report.drift
    assert words in str(report)


def test_images_of_one_class_are_seen_by_their_share(bundle_source: Path) -> None:
    images = digits("train", find_variant("vit_digits").preprocess)
    assert images.labels is not None
    threes = images.subset(np.flatnonzero(images.labels == 3)[:40].tolist())
    report = observe(bundle_source, next(threes.batches(40)))
    (share,) = [row for row in report.statistics if row.name == "class of logits"]
    assert (share.drifted, share.subject) == (True, "3")
    assert share.now.median > 0.9 > 0.2 > share.reference.median
    assert "logits give class '3' to 100 % of the images" in str(report)


def test_the_window_holds_the_last_images(bundle_source: Path, held_out: np.ndarray) -> None:
    monitor = DriftMonitor(bundle_source, window=32, every=1)
    with Engine.load(bundle_source, "fp32", "onnxruntime", observer=monitor) as engine:
        assert monitor.report().images == 0
        for start in range(0, 20, 5):
            engine(255 - held_out[start : start + 5])
        early = monitor.report()
        engine(255 - held_out[:77])  # more than the window holds
        assert monitor.report() is monitor.report()
        inverted = monitor.report()
        list(engine.stream(iter(held_out[:32])))
        after = monitor.report()
    assert (early.images, inverted.images, after.images) == (20, 32, 32)
    assert (early.drift, inverted.drift, after.drift) == (True, True, False)


def test_one_image_in_so_many_is_taken_whatever_the_batches(
    bundle_source: Path, held_out: np.ndarray
) -> None:
    reports = []
    for batch in (1, 5, 60):
        monitor = DriftMonitor(bundle_source, every=7)
        with Engine.load(bundle_source, "fp32", "onnxruntime", observer=monitor) as engine:
            for start in range(0, 60, batch):
                engine(held_out[start : start + batch])
        reports.append(monitor.report())
    assert reports[0].images == 9
    for report in reports:
        assert [row.now for row in report.statistics][:6] == [
            row.now for row in reports[0].statistics
        ][:6]


def test_few_images_cannot_tell_and_say_so(bundle_source: Path, held_out: np.ndarray) -> None:
    report = observe(bundle_source, 255 - held_out[:1])
    assert not report.drift
    assert "1 images beside 600 of the reference are too few to tell" in str(report)


def test_outputs_that_are_not_finite_are_drift(bundle_source: Path, held_out: np.ndarray) -> None:
    monitor = DriftMonitor(bundle_source, every=1)
    logits = np.zeros((40, 10), np.float32)
    logits[7, 3] = np.nan
    monitor.on_call(None, held_out[:40], {"logits": logits}, 0.1)  # type: ignore[arg-type]
    report = monitor.report()
    assert report.drift
    assert "the outputs of 1 images are not finite" in str(report)


def test_frames_on_a_gpu_are_judged_by_their_outputs(
    bundle_source: Path, held_out: np.ndarray
) -> None:
    class OnGpu:
        def __len__(self) -> int:
            return 40

    monitor = DriftMonitor(bundle_source, every=1)
    logits = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    monitor.on_call(None, OnGpu(), {"logits": logits}, 0.1)  # type: ignore[arg-type]
    report = monitor.report()
    assert [row.name for row in report.statistics] == [
        "confidence of logits",
        "entropy of logits",
        "class of logits",
    ]
    assert "40 images lie on a GPU" in str(report)
    assert report.drift


def test_threads_lose_no_image(bundle_source: Path, held_out: np.ndarray) -> None:
    monitor = DriftMonitor(bundle_source, window=1000, every=1)
    with Engine.load(bundle_source, "fp32", "onnxruntime", observer=monitor) as engine:

        def work(start: int) -> None:
            for index in range(start, start + 16):
                engine(held_out[index : index + 1])
                monitor.report()

        threads = [threading.Thread(target=work, args=(16 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = monitor.report()
        alone = DriftMonitor(bundle_source, window=1000, every=1)
        alone.on_call(engine.info, held_out, {"logits": engine(held_out)}, 0.1)
        expected = alone.report()
    assert together.images == expected.images == 128
    for one, other in zip(together.statistics, expected.statistics, strict=True):
        np.testing.assert_allclose(
            [one.now.low, one.now.median, one.now.high, one.shift],
            [other.now.low, other.now.median, other.now.high, other.shift],
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent(
    bundle_source: Path, held_out: np.ndarray
) -> None:
    monitor = DriftMonitor(bundle_source, every=1)
    logits = np.zeros((40, 10), np.float32)
    with monitor._lock:  # as by another thread at the fork
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            monitor.on_call(None, held_out[:40], {"logits": logits}, 0.1)  # type: ignore[arg-type]
            os._exit(0 if monitor.report().images == 40 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 0}, "window is 0"),
        ({"every": 0}, "every is 0"),
        ({"alarm_rate": 0.0}, "alarm_rate is 0.0"),
        ({"alarm_rate": 1.0}, "alarm_rate is 1.0"),
    ],
)
def test_numbers_out_of_range_are_named(
    bundle_source: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        DriftMonitor(bundle_source, **options)
