from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from vit_edge.calibration.collect import Calibration
from vit_edge.export.graph_edit import array
from vit_edge.export.measure import simulate
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.precision.int8 import INT8
from vit_edge.export.quantise.grid import representable_scale

from ..graphs import count, relative_error, run


def test_only_the_blocks_linears_are_quantised(
    optimised: ir.Model, calibration: Calibration
) -> None:
    for kind, lowered in INT8().lower(optimised, calibration).items():
        assert count(lowered)["QuantizeLinear"] == 8, kind
        assert count(lowered)["DequantizeLinear"] == 16, kind
        for node in lowered.graph:
            if node.op_type == "DequantizeLinear":
                users = {use.node.op_type for use in node.outputs[0].uses()}
                assert users == {"MatMul"}, node.name


def test_residual_stream_carries_no_quantiser(
    optimised: ir.Model, calibration: Calibration
) -> None:
    lowered = INT8().lower(optimised, calibration)["cpu"]
    quantised = {str(n.inputs[0].name) for n in lowered.graph if n.op_type == "QuantizeLinear"}
    residual = {f"blocks.{block}/{add}" for block in range(2) for add in ("Add", "Add_2")}
    assert not quantised & (residual | {"Add"})


def test_activations_and_weights_are_symmetric(
    optimised: ir.Model, calibration: Calibration
) -> None:
    lowered = INT8().lower(optimised, calibration)["cpu"]
    for node in lowered.graph:
        if node.op_type == "DequantizeLinear":
            zero_point = node.inputs[2]
            assert not array(zero_point).any()
            if node.inputs[0].is_initializer():
                weight, scale = array(node.inputs[0]), array(node.inputs[1])
                assert weight.dtype == np.int8
                assert weight.min() >= -127
                assert scale.shape == (weight.shape[1],)


def test_cpu_and_gpu_graphs_hold_the_same_integers(
    optimised: ir.Model, calibration: Calibration
) -> None:
    graphs = INT8().lower(optimised, calibration)
    names = [n for n in graphs["cpu"].graph.initializers if n.endswith("@int8")]
    assert len(names) == 8
    for name in names:
        cpu, gpu = (array(graphs[kind].graph.initializers[name]) for kind in ("cpu", "gpu"))
        np.testing.assert_array_equal(cpu, gpu)


def test_int8_stays_close_on_both(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    graphs, expected = INT8().lower(optimised, calibration), run(optimised, frames)
    assert relative_error(run(graphs["cpu"], frames), expected) < 0.05
    assert relative_error(run(simulate(graphs["gpu"]), frames), expected) < 0.05
    assert count(graphs["gpu"])["Cast"] > count(graphs["cpu"])["Cast"]


@given(st.floats(1e-9, 1e6))
def test_scales_are_fp16_numbers_that_reach_the_range(amax: float) -> None:
    (scale,) = representable_scale(np.array([min(amax, 8e6)], dtype=np.float32))
    assert scale == np.float32(np.float16(scale)) > 0
    assert scale * 127 >= amax * (1 - 1e-6)
    if amax > 1e-2:
        assert scale * 127 <= amax * 1.001


def test_no_precision_changes_the_graph_it_is_given(
    optimised: ir.Model, calibration: Calibration
) -> None:
    before = ir.to_proto(optimised).SerializeToString()
    for precision in PRECISIONS.values():
        precision.lower(optimised, calibration)
    assert ir.to_proto(optimised).SerializeToString() == before
