"""Which precisions are explained, and that real engines are profiled for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime.backends import find_backend
from vit_edge.runtime.backends.openvino import OpenVino
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.schema import decode, encode, parse_json
from vit_edge.runtime.tools.check import OK, Row
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.compare.comparison import Comparison
from vit_edge.runtime.tools.compare.contest import Measured
from vit_edge.runtime.tools.measure.rounds import Series
from vit_edge.runtime.tools.profile import slow
from vit_edge.runtime.tools.profile.kernels import CASTS, KINDS, PRODUCTS
from vit_edge.runtime.tools.profile.slow import explain_slow, slow_pairs


def measured(
    precision: str, milliseconds: float, backend: str = "onnxruntime", noise: float = 0.001,
    status: str = OK, batch: int = 1,
) -> Measured:  # fmt: skip
    """An engine with 12 rounds around that latency."""
    around = milliseconds * (1 + noise * np.linspace(-1, 1, 12))
    series = Series(tuple(np.full(4, time) for time in around), 1.0)
    candidate = Candidate(precision, find_backend(backend))
    row = Row(precision, backend, status)
    return Measured(candidate, row, 1e-3, batch, series, None, 0)


def pairs(rows: Sequence[Measured]) -> list[tuple[str, str, float]]:
    return [
        (str(m.candidate), higher.candidate.precision, round(speedup.value, 2))
        for m, higher, speedup in slow_pairs(rows)
    ]


def test_each_precision_is_held_against_the_fastest_higher_one_of_its_backend() -> None:
    rows = [
        measured("int8", 9.0), measured("fp16", 12.0), measured("fp32", 8.0),
        measured("int8", 5.0, "openvino"), measured("bf16", 4.0, "openvino"),
        measured("fp32", 9.0, "openvino"),
    ]  # fmt: skip
    assert pairs(rows) == [
        ("int8 on onnxruntime", "fp32", 0.89),
        ("fp16 on onnxruntime", "fp32", 0.67),
        ("int8 on openvino", "bf16", 0.8),
    ]


def test_faster_means_beyond_noise_by_more_than_a_fiftieth() -> None:
    assert pairs([measured("int8", 9.7), measured("fp32", 10.0)]) == []
    assert pairs([measured("int8", 9.9), measured("fp32", 10.0)]) != []
    assert pairs([measured("int8", 9.0, noise=0.6), measured("fp32", 10.0)]) != []


def test_what_is_wrong_or_of_a_larger_batch_is_left_out() -> None:
    wrong = [measured("int8", 9.0, status="failed: wrong"), measured("fp32", 8.0)]
    assert pairs(wrong) == []
    assert pairs([measured("int8", 9.0), measured("fp32", 8.0, status="failed")]) == []
    batches = [
        measured("int8", 2.0), measured("fp32", 8.0), measured("int8", 99.0, batch=8),
        measured("fp32", 9.0, batch=8),
    ]  # fmt: skip
    assert pairs(batches) == []
    assert pairs([]) == []


def test_real_engines_are_profiled_once_each(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(slow, "say", asked.append)
    rows = [
        measured(precision, milliseconds, backend)
        for backend in ("onnxruntime", "openvino")
        for precision, milliseconds in (("int8", 3.0), ("fp16", 2.0), ("fp32", 1.0))
    ]
    found = explain_slow(Deployment(Bundle.open(bundle_source)), rows, 0.02)
    assert len(found) == 4
    assert len(asked) == len(set(asked)) == 6
    for pair in found:
        assert (pair.higher.precision, pair.higher.p50_ms, pair.batch) == ("fp32", 1.0, 1)
        for one in (pair.slow, pair.higher):
            assert sum(one.shares.values()) == pytest.approx(1)
            assert set(one.shares) <= set(KINDS)
            assert one.whole_ms == one.p50_ms
            assert one.kernels is not None
            assert one.kernels > 18
    int8, fp16 = (pair.slow for pair in found if pair.slow.backend == "onnxruntime")
    assert int8.quantised is not None
    assert int8.quantised > 0.8
    assert {PRODUCTS[8], CASTS} <= set(int8.shares)
    assert len(int8.wider) == 2
    assert len(fp16.wider) == 18
    assert fp16.products(0, 16) == 0


def test_a_profile_of_another_batch_says_so(bundle_source: Path) -> None:
    rows = [measured("int8", 2.0, batch=4), measured("fp32", 1.0, batch=4)]
    (pair,) = explain_slow(Deployment(Bundle.open(bundle_source)), rows, 0.0)
    assert pair.batch == 4
    assert pair.source == "ONNX Runtime's profiler, at batch 1"


def test_an_engine_that_cannot_be_profiled_is_no_error(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: OpenVino, *arguments: object, **named: object) -> object:
        raise EngineError("the counters are\nnot there")

    monkeypatch.setattr(OpenVino, "open", refuse)
    rows = [measured("int8", 2.0, "openvino"), measured("fp32", 1.0, "openvino")]
    (pair,) = explain_slow(Deployment(Bundle.open(bundle_source)), rows, 0.0)
    assert pair.slow.problem == "the counters are not there"
    assert pair.cause.startswith("why is not known, for int8 could not be profiled: the counters")
    assert pair.source == "the counters are not there"


def test_a_backend_without_a_profiler_says_so(bundle_source: Path) -> None:
    rows = [measured("int8", 2.0, "onnxruntime-cuda"), measured("fp32", 1.0, "onnxruntime-cuda")]
    (pair,) = explain_slow(Deployment(Bundle.open(bundle_source)), rows, 0.0)
    assert pair.slow.problem == "onnxruntime-cuda has no profiler that tells kinds apart"


def test_compare_prints_it_and_its_reports_hold_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(slow, "LEVEL", 1e9)  # none is fast enough
    monkeypatch.setattr("vit_edge.runtime.tools.profile.work.LEVEL", 1e9)
    quick = ("--seconds", "0.01", "--precision", "int8", "fp32", "--report", str(tmp_path))
    assert main(["compare", str(bundle), *quick]) == 0
    printed = capsys.readouterr()
    for backend in ("openvino", "onnxruntime"):
        assert f"int8 on {backend} is not faster than fp32, " in printed.out
    assert "8-bit products" in printed.out
    assert "From ONNX Runtime's profiler." in printed.out
    assert "profiling int8 on openvino" in printed.err
    raw = (tmp_path / "report.json").read_bytes()
    report = decode(Comparison, parse_json(raw))
    assert [pair.slow.backend for pair in report.not_faster] == ["openvino", "onnxruntime"]
    assert encode(report).encode() == raw
    html = (tmp_path / "report.html").read_text()
    assert "Where the time goes" in html
    assert html.count("int8 on openvino is not faster than fp32") == 1


def test_a_report_from_before_is_still_read(bundle: Path, tmp_path: Path) -> None:
    quick = ("--seconds", "0.01", "--precision", "fp32", "--report", str(tmp_path), "-q")
    assert main(["compare", str(bundle), *quick, "--backend", "onnxruntime"]) == 0
    old = json.loads((tmp_path / "report.json").read_text())
    assert old.pop("not_faster") == []
    assert decode(Comparison, old).not_faster == ()
