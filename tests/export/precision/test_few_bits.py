"""FP8 and INT4: their types, how close they stay, and that engines are built of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from tests.specs import engine_spec
from vit_edge.calibration.collect import Calibration
from vit_edge.export.measure import simulate
from vit_edge.export.precision import find_precision
from vit_edge.export.quantise.linears import BLOCKS_OPSET
from vit_edge.runtime.backends import BACKENDS, BuildOptions
from vit_edge.vit.variants import Variant

from ..graphs import count, relative_error, run

RTX = BACKENDS["tensorrt-rtx"]
QUANTISED = ("int8", "int8_attention", "fp8", "fp8_attention", "int4")


def constants(graph: ir.Graph, dtype: ir.DataType) -> list[ir.Value]:
    """The matrices of that type."""
    read = [n.inputs[0] for n in graph if n.op_type == "DequantizeLinear"]
    return [v for v in read if v is not None and v.is_initializer() and v.dtype == dtype]


def test_fp8_holds_weights_and_activations(optimised: ir.Model, calibration: Calibration) -> None:
    graphs = find_precision("fp8").lower(optimised, calibration)
    assert list(graphs) == ["gpu"]
    assert len(constants(graphs["gpu"].graph, ir.DataType.FLOAT8E4M3FN)) == 8
    assert count(graphs["gpu"])["QuantizeLinear"] == 8


def test_int4_holds_weights_in_blocks_and_leaves_activations_alone(
    optimised: ir.Model, calibration: Calibration
) -> None:
    lowered = find_precision("int4").lower(optimised, calibration)["gpu"]
    weights = constants(lowered.graph, ir.DataType.INT4)
    assert len(weights) == 8
    assert lowered.opset_imports[""] == BLOCKS_OPSET
    assert count(lowered)["QuantizeLinear"] == 0
    for node in lowered.graph:
        if node.op_type == "DequantizeLinear":
            numbers, scale, zero = node.inputs
            block = node.attributes["block_size"].as_int()
            assert numbers.shape[0] == block * scale.shape[0]  # type: ignore[union-attr,index]
            assert not zero.const_value.numpy().any()  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "limit"), [("fp8", 0.1), ("int4", 0.2)])
def test_they_stay_close(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray, name: str, limit: float
) -> None:
    lowered = find_precision(name).lower(optimised, calibration)["gpu"]
    error = relative_error(run(simulate(lowered), frames), run(optimised, frames))
    assert 1e-4 < error < limit


def test_searching_beats_rounding_to_the_nearest(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    precision, expected = find_precision("int4"), run(optimised, frames)
    provenance = replace(calibration.table.provenance, method="minmax")
    plain = replace(calibration, table=replace(calibration.table, provenance=provenance))
    errors = [
        float(
            (
                (run(simulate(precision.lower(optimised, found)["gpu"]), frames) - expected) ** 2
            ).sum()
        )
        for found in (calibration, plain)
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.skipif(RTX.build_problem() is not None, reason=str(RTX.build_problem()))
@pytest.mark.parametrize("name", QUANTISED)
def test_engines_are_built_of_them(
    optimised: ir.Model, calibration: Calibration, variant: Variant, name: str
) -> None:
    graph = ir.to_proto(find_precision(name).lower(optimised, calibration)["gpu"])
    outputs = variant.config.num_classes
    spec = engine_spec("images", "logits", variant.preprocess.shape, outputs, (1, 2, 4))
    assert len(RTX.compile(graph.SerializeToString(), spec, BuildOptions()).engine) > 100_000
