from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime import Engine
from vit_edge.runtime.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from vit_edge.runtime.backends.openvino import OpenVino, OpenVinoSession
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import BackendError, EngineError, InputError
from vit_edge.runtime.tools.compare.comparison import ComparedRow, Comparison
from vit_edge.runtime.tools.compare.run import compare_bundle
from vit_edge.runtime.tools.measure.interference import Interference
from vit_edge.runtime.tools.measure.rounds import Schedule

Bounds = tuple[float, float]


TWO = ("int8", "fp32")
LITTLE = Schedule(seconds=0.0, calls=4, rounds=2, settle_s=0.0)


def compare(
    path: Path,
    *batches: int,
    precisions: tuple[str, ...] = TWO,
    backends: tuple[str, ...] = (),
) -> Comparison:
    bundle = Bundle.open(path)
    return compare_bundle(bundle, batches or (1,), 1.0, precisions, backends, lambda *_: LITTLE)


def by_engine(found: Comparison) -> dict[tuple[str, str, int | None], ComparedRow]:
    return {(row.precision, row.backend, row.batch): row for row in found.rows}


def refusing(when: Callable[[int], bool]) -> Callable[..., object]:
    """`OpenVino.open` that fails where `when` says so of the number of its calls."""
    original, calls = OpenVino.open, [0]

    def open_(self: OpenVino, *arguments: object, **named: object) -> object:
        calls[0] += 1
        if when(calls[0]):
            raise EngineError("no memory left on the device")
        return original(self, *arguments, **named)  # type: ignore[arg-type]

    return open_


def test_rows_hold_latency_throughput_and_accuracy_with_intervals(bundle_source: Path) -> None:
    found = compare(bundle_source, 3, 1, precisions=())
    rows = by_engine(found)
    assert {key[:2] for key in rows} == {
        (p, b) for p in ("fp32", "fp16", "int8") for b in ("onnxruntime", "openvino")
    }
    assert {row.group for row in found.rows} == {0}
    for (precision, _, batch), row in rows.items():
        assert row.scenario == ("SingleStream" if batch == 1 else "Offline")
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms  # type: ignore[operator]
        for value, bounds in (
            (row.p50_ms, row.p50_interval),
            (row.p90_ms, row.p90_interval),
            (row.images_per_s, row.images_per_s_interval),
        ):
            low, high = bounds or (0.0, 0.0)
            assert low <= (value or 0) <= high
        assert row.images_per_s == pytest.approx(1e3 * (batch or 0) / (row.mean_ms or 1))
        assert row.calls == 4
        assert row.rms_error is not None
        assert row.rms_error < (1e-5 if precision == "fp32" else 0.05)
        if precision == "fp32":
            assert row.speedup is not None
            assert (row.speedup.low, row.speedup.value, row.speedup.high) == (1, 1, 1)
    for batch in (1, 3):
        ratios = [r.to_fastest.value for r in found.rows if r.batch == batch and r.to_fastest]
        assert min(ratios) == 1
        assert len(ratios) == 6
    assert [r.batch for r in found.rows[:2]] == [1, 3]
    assert found.recommendation.precision is not None
    assert len(found.distributions) == 12


def test_precisions_and_backends_can_be_chosen(bundle_source: Path) -> None:
    found = compare(bundle_source, precisions=("fp16",), backends=("openvino",))
    assert [(r.precision, r.backend) for r in found.rows] == [
        ("fp16", "openvino"),
    ]
    with pytest.raises(InputError, match="no precision 'fp8'"):
        compare(bundle_source, precisions=("fp8",))
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        compare(bundle_source, backends=("tpu",))
    with pytest.raises(BackendError, match="can run here"):
        compare(bundle_source, backends=("tensorrt",))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(bundle_source: Path, seconds: float) -> None:
    with pytest.raises(InputError, match="--seconds"):
        compare_bundle(Bundle.open(bundle_source), (1,), seconds)


def test_an_engine_that_cannot_be_opened_is_a_failed_row_and_parts_no_others(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVino, "open", refusing(lambda call: True))
    found = compare(bundle_source, 1, 2)
    failed = [row for row in found.rows if row.backend == "openvino"]
    assert [row.status for row in failed] == ["failed: no memory left on the device"] * 2
    assert all(row.p50_ms is None for row in failed)
    assert len({row.group for row in found.rows if row.batch}) == 1
    assert not any("groups" in note for note in found.notes)
    assert found.recommendation.backend == "onnxruntime"
    assert not found.good


def test_what_does_not_fit_beside_others_runs_after_them_and_that_is_said(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVino, "open", refusing(lambda call: call == 2))
    found = compare(bundle_source)
    groups = {row.group for row in found.rows}
    assert found.good
    assert len(groups) == 2
    assert any("ran in 2 groups" in note for note in found.notes)


def test_engines_that_would_not_fit_are_not_opened_together(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    most = [0]
    open_, close = OnnxRuntime.open, OnnxRuntimeSession.close

    def opening(self: OnnxRuntime, *arguments: object, **named: object) -> object:
        opened.append(self)
        most[0] = max(most[0], len(opened))
        return open_(self, *arguments, **named)  # type: ignore[arg-type]

    def closing(self: OnnxRuntimeSession) -> None:
        opened.pop()
        close(self)

    monkeypatch.setattr(OnnxRuntime, "open", opening)
    monkeypatch.setattr(OnnxRuntimeSession, "close", closing)
    monkeypatch.setattr("vit_edge.runtime.tools.compare.contest.available_memory", lambda: 1000)
    found = compare(bundle_source, backends=("onnxruntime",))
    assert most == [1]
    assert opened == []
    assert {row.group for row in found.rows} == {0, 1}
    assert found.good


def test_an_engine_that_fails_while_it_is_measured_is_a_failed_row(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OpenVinoSession.run

    def run(self: OpenVinoSession, images: np.ndarray) -> np.ndarray:
        if len(images) == 2:
            raise EngineError("the device fell off")
        return original(self, images)

    monkeypatch.setattr(OpenVinoSession, "run", run)
    found = compare(bundle_source, 1, 2)
    failed = [row for row in found.rows if row.status != "ok"]
    assert len(failed) == 2
    assert {row.backend for row in failed} == {"openvino"}
    assert {row.status for row in failed} == {"failed: the device fell off"}


def test_a_wrong_engine_is_measured_but_neither_fastest_nor_recommended(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong ones are the faster ones of this model."""
    original = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, x: 1.5 * original(self, x))
    found = compare(bundle_source)
    wrong = [row for row in found.rows if row.backend == "onnxruntime"]
    assert all("failed: logits are" in row.status and row.p50_ms for row in wrong)
    assert found.recommendation.backend == "openvino"
    right = [r.to_fastest.value for r in found.rows if r.backend == "openvino" and r.to_fastest]
    assert min(right) == 1
    why = found.recommendation.why
    assert "Not to be used: fp32 on onnxruntime, int8 on onnxruntime." in why


def test_answers_that_are_not_finite_have_no_error_in_the_report(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", lambda self, x: np.nan * original(self, x))
    rows = compare(bundle_source, backends=("openvino",)).rows
    assert [row.rms_error for row in rows] == [None] * 2


def test_the_device_remembers_what_was_measured(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(bundle_source, precisions=())
    monkeypatch.setattr("vit_edge.runtime.metrics.race", lambda *_: pytest.fail("measured"))
    recommended = found.recommendation
    fastest = min(found.rows, key=lambda row: row.p50_ms or 0)
    with Engine.load(bundle_source) as engine:
        chosen = engine.info.precision, engine.info.backend
        assert chosen == (recommended.precision, recommended.backend)
        assert f"{fastest.p50_ms:.3g} ms" in engine.info.why


def test_a_busy_machine_is_said(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Interference(load_before=3.2, load_after=3.9, others=1.31, stolen=0.2, cores=2)
    monkeypatch.setattr(
        "vit_edge.runtime.tools.compare.run.InterferenceWatch.read", lambda self: busy
    )
    few = {"precisions": ("fp32",), "backends": ("openvino",)}
    (note,) = compare(bundle_source, **few).notes
    assert note.startswith("The machine was busy: other processes used 1.31 of 2 cores")
    quiet = Interference(load_before=0.1, load_after=1.9, others=0.02, stolen=0.0, cores=2)
    monkeypatch.setattr(
        "vit_edge.runtime.tools.compare.run.InterferenceWatch.read", lambda self: quiet
    )
    assert compare(bundle_source, **few).notes == ()


def test_the_devices_own_time_is_kept_apart_where_a_session_tells_it(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def tell(self: OpenVinoSession, images: np.ndarray) -> float:
        asked.append(len(images))
        return 0.25

    monkeypatch.setattr(OpenVinoSession, "device_time_ms", tell, raising=False)
    rows = by_engine(compare(bundle_source, 1, 7, precisions=("fp32",)))
    assert rows["fp32", "openvino", 1].device_ms == 0.25
    assert rows["fp32", "openvino", 7].device_ms == 0.5  # two parts: the largest batch is 4
    assert rows["fp32", "onnxruntime", 1].device_ms is None
    assert set(asked) == {1, 4, 3}
