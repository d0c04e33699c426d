from __future__ import annotations

import json
from pathlib import Path

import pytest

from .test_commands import ROW_FIELDS, run

QUICK = ("--seconds", "0.01", "--precision", "int8", "fp32", "--backend", "onnxruntime")
ONE = ("--seconds", "0.01", "--precision", "fp32", "--backend", "openvino")


def test_compare_prints_latency_and_accuracy(
    bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(
        capsys, "compare", bundle_source, *QUICK, "--json", "--batch", "1", "3", "--report", "none"
    )
    told = json.loads(out)
    assert status == 0
    assert all(row.keys() >= ROW_FIELDS for row in told["rows"])
    on_cpu = [row for row in told["rows"] if row["backend"] == "onnxruntime"]
    assert [(r["precision"], r["batch"]) for r in on_cpu] == [
        (p, n) for p in ("int8", "fp32") for n in (1, 3)
    ]
    for row in on_cpu:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["mean_ms"])
        assert row["agreement"] > 0.98
    assert {"recommendation", "machine", "not_run"} <= told.keys()


def test_the_table_ends_with_the_recommendation_and_the_reports_are_written(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "compare", bundle, "--seconds", "0.01", "--precision", "fp32")
    assert status == 0
    assert "x fp32" in out
    assert "not run: tensorrt, " in out
    assert out.splitlines()[-1].startswith("recommended here: ")
    folder = bundle.with_name(f"{bundle.name}.compare")
    assert f"report: {folder / 'report.html'}" in err
    assert json.loads((folder / "report.json").read_text())["name"] in out
    assert "Recommended on " in (folder / "report.html").read_text()


@pytest.mark.parametrize("wished", ["none", "elsewhere"])
def test_reports_go_where_they_are_wanted(
    wished: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    status, _, err = run(capsys, "compare", bundle, *ONE, "--report", wished)
    assert status == 0
    new = set(tmp_path.iterdir()) - before
    assert new == (set() if wished == "none" else {tmp_path / "elsewhere"})
    assert ("report:" in err) is (wished != "none")


def test_an_unwritable_place_is_said_and_not_fatal(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    status, out, err = run(capsys, "compare", bundle, *ONE, "--report", tmp_path / "file")
    assert status == 0
    assert "recommended here: fp32 on openvino" in out
    assert f"no report: {tmp_path / 'file'} cannot be written (" in err


def test_compare_exits_1_when_an_engine_answers_wrongly(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vit_edge.runtime.backends.openvino import OpenVinoSession

    original = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", lambda self, x: 1.5 * original(self, x))
    status, out, _ = run(
        capsys, "compare", bundle, *ONE[:2], "--report", "none", "--precision", "int8"
    )
    assert status == 1
    assert "int8 on openvino, failed: logits are" in out
    recommended = out.splitlines()[-1]
    assert "on onnxruntime" in recommended
    assert "Not to be used: int8 on openvino." in recommended
