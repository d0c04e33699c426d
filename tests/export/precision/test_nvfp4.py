"""NVFP4: its types, how close it stays, what falls back, and that engines multiply 4 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.specs import engine_spec
from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.export.collapse.structure import check_grids, check_quantised_stream
from vit_edge.export.engines import EngineBuilder
from vit_edge.export.forms import DEFAULT
from vit_edge.export.graph_edit import add_initializer, array
from vit_edge.export.measure import simulate
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest, Target
from vit_edge.export.precision import PRECISIONS, QuantisedPrecision, find_precision
from vit_edge.export.precision.base import EIGHT_BIT
from vit_edge.export.progress import Display
from vit_edge.export.quantise.float4_qdq import DOMAIN, IR_VERSION, OPSET, QUANTISER
from vit_edge.export.quantise.layers import LINEARS, apply_fallback, count_work, find_layers
from vit_edge.runtime.backends import BACKENDS, cuda
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.errors import EngineError, InputError
from vit_edge.vit.variants import Variant

from ...conftest import Once
from ...effort import ONE_CALL
from ..graphs import count, quantise, relative_error, run

RTX = BACKENDS["tensorrt-rtx"]
needs_rtx = pytest.mark.skipif(RTX.build_problem() is not None, reason=str(RTX.build_problem()))


@pytest.fixture(scope="module")
def lowered(optimised: ir.Model, calibration: Calibration) -> ir.Model:
    """The graph for GPUs."""
    return find_precision("nvfp4").lower(optimised, calibration)["gpu"]


def weights(model: ir.Model) -> list[ir.Value]:
    return [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT4E2M1]


def test_it_holds_weights_and_activations(lowered: ir.Model) -> None:
    assert len(weights(lowered)) == count(lowered)[QUANTISER] == 8
    assert lowered.opset_imports[""] == OPSET
    assert lowered.opset_imports[DOMAIN] == 1
    assert lowered.ir_version == IR_VERSION
    assert count_work(lowered.graph).shares[LINEARS] > 0.99
    for node in lowered.graph:
        if node.op_type == QUANTISER:
            value, step = node.inputs
            assert value is not None
            assert value.dtype == ir.DataType.FLOAT16
            assert step is not None
            assert step.dtype == ir.DataType.FLOAT, "TensorRT wants it in 32 bits"


def test_weights_alone_leave_activations_as_they_are(
    optimised: ir.Model, calibration: Calibration
) -> None:
    graphs = find_precision("nvfp4_weights").lower(optimised, calibration)
    assert list(graphs) == ["gpu"]
    assert len(weights(graphs["gpu"])) == 8
    assert count(graphs["gpu"])[QUANTISER] == 0


@pytest.mark.parametrize(("name", "limit"), [("nvfp4", 0.4), ("nvfp4_weights", 0.15)])
def test_they_stay_close(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray, name: str, limit: float
) -> None:
    graph = find_precision(name).lower(optimised, calibration)["gpu"]
    error = relative_error(run(simulate(graph), frames), run(optimised, frames))
    assert 1e-3 < error < limit


def test_searching_beats_plain_rounding(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    provenance = replace(calibration.table.provenance, method="minmax")
    plain = replace(calibration, table=replace(calibration.table, provenance=provenance))
    expected, errors = run(optimised, frames), []
    for used in (calibration, plain):
        graph = find_precision("nvfp4_weights").lower(optimised, used)["gpu"]
        errors.append(float(((run(simulate(graph), frames) - expected) ** 2).sum()))
    assert errors[0] < 0.7 * errors[1]


def test_operands_of_a_product_are_not_rounded_to_16_bits(lowered: ir.Model) -> None:
    """The kernel multiplies 4-bit numbers; what they stand for never exists."""
    simulated = simulate(lowered)
    for node in simulated.graph:
        if node.op_type != "MatMul" or "attn/MatMul" in str(node.name):
            continue
        for value in node.inputs:
            cast = value.producer() if value is not None else None
            if cast is not None and cast.op_type == "Cast":
                assert cast.attributes["to"].as_int() == ir.DataType.FLOAT
                source = cast.inputs[0].producer() if cast.inputs[0] is not None else None
                assert source is not None
                assert source.op_type in ("DequantizeLinear", "Cast")


def test_layers_fall_back_to_fp8(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    made = quantise("nvfp4", optimised, calibration)
    layers = find_layers(made.exact.graph, made.lowered.graph)
    expected = run(optimised, frames)
    before = float(((run(made.lowered, frames) - expected) ** 2).mean())
    chosen = [layer.name for layer in layers[:4]]
    apply_fallback(made.fallback, made.lowered, layers, chosen)
    assert count(made.lowered)["QuantizeLinear"] == 4
    assert count(made.lowered)[QUANTISER] == 4
    after = float(((run(made.lowered, frames) - expected) ** 2).mean())
    assert after < 0.8 * before
    precision = find_precision("nvfp4")
    assert isinstance(precision, QuantisedPrecision)
    graph = precision.finish(made.lowered, calibration.table)["gpu"]
    assert relative_error(run(simulate(graph), frames), run(made.lowered, frames)) < 0.1


def test_weights_alone_fall_back_to_16_bits(optimised: ir.Model, calibration: Calibration) -> None:
    made = quantise("nvfp4_weights", optimised, calibration)
    assert made.fallback is made.exact


def test_only_what_is_quantised_is_a_layer(optimised: ir.Model, calibration: Calibration) -> None:
    """A Linear whose channels are no whole blocks stays as it is."""
    narrow = optimised.clone()
    linear = next(n for n in narrow.graph if str(n.name).endswith("blocks.0.mlp.fc1/MatMul"))
    assert linear.inputs[0] is not None
    linear.inputs[0].shape = ir.Shape([1, *list(linear.inputs[0].shape or ())])
    made = quantise("nvfp4", narrow, calibration)
    names = [layer.name for layer in find_layers(made.exact.graph, made.lowered.graph)]
    assert len(names) == 7
    assert "blocks.0.mlp.fc1" not in names


def scale_of(model: ir.Model, node: ir.Node) -> ir.Value:
    value = node.inputs[1]
    assert value is not None
    return value


def change_quantiser(model: ir.Model) -> None:
    """The quantiser divides by another number than is multiplied with later."""
    node = next(n for n in model.graph if n.op_type == QUANTISER)
    other = array(scale_of(model, node)) * np.float32(2)
    node.replace_input_with(1, add_initializer(model.graph, "other", other))


def empty_block(model: ir.Model) -> None:
    value = next(
        v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT8E4M3FN
    )
    scales = array(value).copy()
    scales[0, 0] = 0
    value.const_value = ir.tensor(scales, name=value.name)


def negative_scale(model: ir.Model) -> None:
    node = next(n for n in model.graph if n.op_type == QUANTISER)
    value = scale_of(model, node)
    value.const_value = ir.tensor(-array(value), name=value.name)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_quantiser, "scales by 0.5 times what"),
        (empty_block, "a block scale of"),
        (negative_scale, "not positive and finite"),
    ],
)
def test_scales_that_do_not_fit_are_found(lowered: ir.Model, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    assert list(check_grids(lowered.graph)) == []
    wrong = lowered.clone()
    damage(wrong)
    (fault,) = check_grids(wrong.graph)
    assert words in str(fault)


def test_a_quantiser_on_the_residual_stream_is_found(
    lowered: ir.Model, optimised: ir.Model
) -> None:
    from vit_edge.export.collapse.probes import find_probes

    probes = find_probes(optimised.graph)
    assert list(check_quantised_stream(lowered.graph, optimised.graph, probes)) == []
    wrong = lowered.clone()
    stream = {probe.name for probe in probes if probe.cut}
    node = next(n for n in wrong.graph if n.op_type == QUANTISER)
    value = next(v for n in wrong.graph for v in n.outputs if v.name in stream)
    node.replace_input_with(0, value)
    (fault,) = check_quantised_stream(wrong.graph, optimised.graph, probes)
    assert "the residual stream carries Q/DQ" in str(fault)


@needs_rtx
@pytest.mark.parametrize(("name", "kind"), [("nvfp4", "fp4"), ("nvfp4_weights", "fp16")])
def test_engines_multiply_in_the_type_that_the_graph_asks_for(
    optimised: ir.Model, calibration: Calibration, variant: Variant, name: str, kind: str
) -> None:
    graph = find_precision(name).lower(optimised, calibration)["gpu"]
    outputs = variant.config.num_classes
    spec = engine_spec("images", "logits", variant.preprocess.shape, outputs, (1, 2, 4))
    builder = EngineBuilder.for_target(Target("tensorrt-rtx", ("12.0",)), spec, name)
    content = to_bytes(graph)
    built = builder.build(content, DEFAULT, spec.batch)
    plan = builder.read_plan(content, DEFAULT, built, "fast")
    assert plan is not None
    summary = plan.summary()
    assert summary.unmet == ()
    assert summary.linear_work[kind] > 0.75, "all but the embedding of patches and the head"
    refused = EngineBuilder.for_target(Target("tensorrt-rtx", ("8.9",)), spec, name)
    with pytest.raises(EngineError, match=r"sm89.*fp4"):
        refused.build(content, DEFAULT, spec.batch)


@needs_rtx
def test_targets_keep_the_gpus_that_have_the_type() -> None:
    every = Target("tensorrt-rtx", ()).narrowed("10.0")
    assert every is not None
    assert "12.0" in every.compute_capabilities
    assert all(float(c) >= 10 for c in every.compute_capabilities)
    assert Target("tensorrt-rtx", ("8.9", "12.0")).narrowed("10.0") == Target(
        "tensorrt-rtx", ("12.0",)
    )
    assert Target("tensorrt-rtx", ("8.9",)).narrowed("10.0") is None
    assert Target("tensorrt-rtx", ()).narrowed("") == Target("tensorrt-rtx", ())


@pytest.fixture(scope="module")
def bundle(once: Once) -> Iterator[Path]:
    """A bundle whose NVFP4 had to fall back in part: its budget is that of 8 bits."""
    with pytest.MonkeyPatch.context() as patch:
        strict = replace(find_precision("nvfp4"), budget=EIGHT_BIT)
        patch.setitem(PRECISIONS, "nvfp4", strict)
        yield once("nvfp4", _export) / "out"


def _export(folder: Path) -> None:
    request = ExportRequest(
        timing=ONE_CALL,
        model="vit_test_patch8_32",
        precisions=("fp32", "nvfp4"),
        targets=("tensorrt-rtx:8.9",) if RTX.build_problem() is None else ("onnxruntime",),
        effort="fast",
        out=folder / "out",
        max_batch=2,
    )
    report = export_bundle(request, Display())
    assert report.good
    if RTX.build_problem() is None:
        assert any("no nvfp4 engine for tensorrt-rtx-sm89" in note for note in report.notes)


def test_the_bundle_says_what_fell_back_and_which_gpus_it_is_for(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    entry = manifest.precisions["nvfp4"]
    assert entry.raised
    assert "keeps its precision" in entry.reason
    assert entry.engines == ()
    assert entry.graphs["gpu"].least_capability == "10.0"
    assert entry.graphs["gpu"].quantised[LINEARS] > 0.99, "in FP8 where not in NVFP4"
    for graph in manifest.precisions["fp32"].graphs.values():
        assert graph.least_capability == ""


@pytest.mark.parametrize(("capability", "runs"), [("8.9", False), ("10.0", True), ("12.1", True)])
def test_only_gpus_that_have_the_type_are_offered_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capability: str, runs: bool
) -> None:
    monkeypatch.setattr(cuda, "compute_capability", lambda: capability)
    deployment = Deployment(Bundle.open(bundle))
    candidates = deployment.candidates("nvfp4")
    backends = {candidate.backend.name for candidate in candidates}
    assert backends == {"tensorrt", "tensorrt-rtx", "tensorrt-lean"}, "no ONNX Runtime, no OpenVINO"
    backend = candidates[0].backend
    monkeypatch.setattr(type(backend), "run_problem", lambda self: None)
    monkeypatch.setattr(type(backend), "version", lambda self: "11.4.0")
    monkeypatch.setattr(type(backend), "device", lambda self: "NVIDIA of a test")
    options, problems = deployment.survey(candidates[:1])
    assert [option.candidate for option in options] == candidates[:1] * runs
    words = "nvfp4 needs a GPU of compute capability 10.0 or later, this one has 8.9"
    assert list(problems.values()) == [words] * (not runs)


def test_no_backend_for_cpus_takes_it(bundle: Path) -> None:
    deployment = Deployment(Bundle.open(bundle))
    for name in ("onnxruntime", "openvino", "onnxruntime-cuda"):
        assert deployment.candidates("nvfp4", name) == []
    with pytest.raises(InputError):
        deployment.candidates("nvfp5")
