"""`--merge` end to end: searched, given, impossible, and on GPUs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge import Engine
from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.export.engines import EngineBuilder
from vit_edge.export.forms import DEFAULT
from vit_edge.export.merging import schedule
from vit_edge.export.merging.rewrite import merge_tokens
from vit_edge.export.pipeline import export_and_measure, export_bundle
from vit_edge.export.plan import ExportRequest, Target, make_plan
from vit_edge.export.precision import PRECISIONS, find_precision
from vit_edge.export.progress import Display
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.vit.variants import Variant

from ...effort import ONE_CALL
from ...specs import engine_spec

RTX_PROBLEM = BACKENDS["tensorrt-rtx"].build_problem()


@pytest.fixture
def free_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits model has nothing to gain otherwise."""
    monkeypatch.setattr(schedule, "STEP_AT_LEAST", 0)


def request(weights: Path, out: Path, **changes: object) -> ExportRequest:
    """The digits model: 4 patches and the class token, 4 blocks, the last for the class alone."""
    base = ExportRequest(
        weights=str(weights),
        out=out,
        precisions=("int8",),
        targets=(),
        merge="auto",
        max_batch=4,
        timing=ONE_CALL,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("free_steps")
def test_merged_int8_ships_beside_int8_with_its_own_proof(
    digits_weights: Path, digit_frames: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report, results = export_and_measure(request(digits_weights, out, max_drop=3.0), Display())
    assert report.good
    merging = results[1].merging
    assert merging is not None
    assert merging.base == "int8"
    assert (sum(merging.tokens), merging.of) == (1, 4)
    assert 0 < merging.work_saved < 0.5
    assert 0.9 < (merging.agreement or 0) <= 1
    first, second = report.merging
    assert first.startswith("int8_merged: 1 of 4 tokens merged")
    assert re.search(r"int8_merged takes [\d.]+ ms for one image here, int8 [\d.]+", second)
    assert json.loads((tmp_path / "out.report" / "report.json").read_text())["results"][1][
        "merging"
    ]
    manifest = Bundle.open(out).manifest
    assert list(manifest.precisions) == ["int8", "int8_merged"]
    accuracy = manifest.precisions["int8_merged"].graphs["cpu"].accuracy["logits"]
    assert accuracy.images == 600
    assert (accuracy.drop or 0) <= 3
    assert "1 of 4 tokens merged" in str(manifest.provenance["int8_merged merges"])
    scores = []
    for precision in ("int8", "int8_merged"):
        with Engine.load(out, precision) as engine:
            scores.append(engine(digit_frames))
    assert (scores[0].argmax(1) == scores[1].argmax(1)).mean() >= 0.9
    assert np.abs(scores[0] - scores[1]).max() > 1e-3  # some tokens were merged


@pytest.mark.slow
@pytest.mark.usefixtures("free_steps")
def test_a_budget_that_allows_nothing_costs_nothing(
    digits_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision = PRECISIONS["int8_merged"]
    strict = dataclasses.replace(precision.budget, max_drop=-100.0, users_drop=False)
    monkeypatch.setitem(PRECISIONS, "int8_merged", dataclasses.replace(precision, budget=strict))
    report = export_bundle(request(digits_weights, tmp_path / "out"), Display())
    assert report.good
    assert report.merging == (
        "no int8_merged: the budget allows nothing on the calibration images",
    )
    assert list(Bundle.open(tmp_path / "out").manifest.precisions) == ["int8"]


@pytest.mark.slow
def test_given_tokens_that_miss_the_budget_are_refused(
    digits_weights: Path, tmp_path: Path
) -> None:
    """A token in every block is one of four patches gone at the first one."""
    report = export_bundle(request(digits_weights, tmp_path / "out", merge=1), Display())
    assert not report.good
    assert not (tmp_path / "out").exists()
    assert any(p.startswith("int8_merged: top-1 drop is") for p in report.problems)


def test_more_tokens_than_there_are_say_so(digits_weights: Path, tmp_path: Path) -> None:
    report = export_bundle(request(digits_weights, tmp_path / "out", merge="3,0"), Display())
    assert not report.good
    (problem,) = report.problems
    assert "--merge 3,0,0,0: " in problem or "--merge 3,0: " in problem
    assert "at most 1 of 5" in problem


def test_a_merged_precision_brings_the_one_it_is_made_from(
    digits_weights: Path, tmp_path: Path
) -> None:
    asked = request(digits_weights, tmp_path / "out", merge=None, precisions=("fp16_merged",))
    assert make_plan(asked).precisions == ("fp16", "fp16_merged")
    asked = request(digits_weights, tmp_path / "out", precisions=("fp32", "fp16", "int8"))
    expected = ("fp32", "fp16", "fp16_merged", "int8", "int8_merged")
    assert make_plan(asked).precisions == expected
    with pytest.raises(InputError, match="none of fp32 has a merged form; fp16, int8 have"):
        make_plan(request(digits_weights, tmp_path / "out", precisions=("fp32",)))


@pytest.mark.skipif(RTX_PROBLEM is not None, reason=str(RTX_PROBLEM))
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_engines_are_built_of_merged_graphs(
    precision: str, optimised: ir.Model, calibration: Calibration, variant: Variant
) -> None:
    """Attention stays one kernel where sizes are added to its scores; the plan names both."""
    graph = find_precision(precision).lower(optimised, calibration)["gpu"]
    spec = engine_spec("images", "logits", variant.preprocess.shape, 10, (1, 2, 4))
    builder = EngineBuilder.for_target(Target("tensorrt-rtx", ("8.9",)), spec, precision)
    plans = []
    for model in (graph, merge_tokens(graph, (5,))):
        content = to_bytes(model)
        built = builder.build(content, DEFAULT, spec.batch)
        plan = builder.read_plan(content, DEFAULT, built, "default")
        assert plan is not None
        plans.append(plan)
    plain, merged = (plan.summary() for plan in plans)
    assert merged.attentions == plain.attentions == 2
    assert merged.fused_attentions == plain.fused_attentions == 2
    assert merged.unmet == plain.unmet
    assert merged.kernels > plain.kernels


@pytest.mark.skipif(RTX_PROBLEM is not None, reason=str(RTX_PROBLEM))
@pytest.mark.slow
@pytest.mark.usefixtures("free_steps")
def test_where_merging_costs_more_on_a_gpu_it_is_left_out_and_said(
    digits_weights: Path, tmp_path: Path
) -> None:
    """The steps' own kernels are more than a fifth of so small a model's."""
    asked = request(digits_weights, tmp_path / "out", max_drop=3.0, targets=("tensorrt-rtx:8.9",))
    report = export_bundle(asked, Display())
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.precisions["int8"].engines
    assert not manifest.precisions["int8_merged"].engines
    assert manifest.precisions["int8_merged"].graphs.keys() == {"cpu"}
    (line,) = [line for line in report.merging if line.startswith("no engine")]
    assert re.search(r"\d+ us in \d+ kernels, int8 \d+ us in \d+ \(estimated", line)
