"""Overflow in 16 bits must show, although ONNX Runtime on a CPU hides it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from tests.specs import reference_of, vector
from vit_edge.calibration.collect import Calibration
from vit_edge.export.accuracy import assess, find_problem
from vit_edge.export.measure import simulate, sixteen_bit_types
from vit_edge.export.precision import PRECISIONS, Budget
from vit_edge.export.precision.cast import cast_to
from vit_edge.runtime.manifest import Accuracy

from .graphs import run


def all_fp16(model: ir.Model) -> ir.Model:
    """fp16 without an island, as naive converters make it."""
    lowered = ir.from_proto(ir.to_proto(model))
    cast_to(lowered.graph, ir.DataType.FLOAT16, lambda node: False)
    return lowered


def scale_residual(model: ir.Model, factor: float) -> ir.Model:
    """Multiplies the residual stream before the last LayerNorm, which undoes it in fp32."""
    scaled = ir.from_proto(ir.to_proto(model))
    norm = next(n for n in scaled.graph if n.name == "norm/LayerNormalization")
    constant = _constant(scaled.graph, "factor", factor)
    product = _node(scaled.graph, norm, "Mul", [norm.inputs[0], constant], "scaled")
    norm.replace_input_with(0, product)
    return scaled


def decompose_layer_norms(model: ir.Model) -> ir.Model:
    """LayerNormalization in single steps, as older exporters write it."""
    changed = ir.from_proto(ir.to_proto(model))
    graph = changed.graph
    two, epsilon = _constant(graph, "two", 2.0), _constant(graph, "epsilon", 1e-6)
    axes = ir.val("last", const_value=ir.tensor(np.array([-1]), name="last"))
    graph.register_initializer(axes)
    for norm in [n for n in graph if n.op_type == "LayerNormalization"]:
        x, gain, bias = norm.inputs
        name = str(norm.name)
        mean = _node(graph, norm, "ReduceMean", [x, axes], f"{name}/mean")
        centred = _node(graph, norm, "Sub", [x, mean], f"{name}/centred")
        square = _node(graph, norm, "Pow", [centred, two], f"{name}/square")
        variance = _node(graph, norm, "ReduceMean", [square, axes], f"{name}/variance")
        safe = _node(graph, norm, "Add", [variance, epsilon], f"{name}/safe")
        root = _node(graph, norm, "Sqrt", [safe], f"{name}/root")
        normal = _node(graph, norm, "Div", [centred, root], f"{name}/normal")
        gained = _node(graph, norm, "Mul", [normal, gain], f"{name}/gained")
        result = _node(graph, norm, "Add", [gained, bias], f"{name}/result")
        norm.outputs[0].replace_all_uses_with(result)
        graph.remove(norm, safe=True)
    return changed


def _constant(graph: ir.Graph, name: str, number: float) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(np.array(number, dtype=np.float32), name=name))
    graph.register_initializer(value)
    return value


def _node(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], name: str
) -> ir.Value:
    node = ir.node(op_type, inputs, name=name)
    graph.insert_before(before, node)
    value = node.outputs[0]
    value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
    return value


def _problem(accuracy: dict[str, Accuracy], budget: Budget) -> str | None:
    outputs = (vector("logits", 10),)
    return find_problem(accuracy, outputs, budget, random_weights=True)


@pytest.fixture
def large(optimised: ir.Model) -> ir.Model:
    """A residual stream of about 1,000, as in large ViTs."""
    return scale_residual(optimised, 1000 / 3)


def test_decomposed_layer_norm_overflows_in_simulation_and_not_in_plain_onnxruntime(
    large: ir.Model, frames: np.ndarray
) -> None:
    expected = run(large, frames)
    naive = all_fp16(decompose_layer_norms(large))
    plain, simulated = run(naive, frames), run(simulate(naive), frames)
    reference = reference_of(expected)
    budget = PRECISIONS["fp16"].budget
    assert _problem(assess(plain, reference, "plain"), budget) is None
    assert _problem(assess(simulated, reference, "simulated"), budget)


def test_a_layer_norm_whose_input_overflows_is_caught(
    optimised: ir.Model, frames: np.ndarray
) -> None:
    huge = scale_residual(optimised, 1e5)
    expected = run(huge, frames)
    assert np.isfinite(expected).all()
    simulated = run(simulate(all_fp16(huge)), frames)
    accuracy = assess(simulated, reference_of(expected), "here")
    problem = _problem(accuracy, PRECISIONS["fp16"].budget)
    assert problem is not None
    assert "not finite" in problem


def test_our_fp16_survives_the_same_layer_norm(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    """Calibration sees the peak, and an island keeps it in fp32."""
    huge = scale_residual(optimised, 1e5)
    table = calibration.table
    wide = dataclasses.replace(table, peak={**table.peak, "scaled": 3e5})
    lowered = PRECISIONS["fp16"].lower(huge, dataclasses.replace(calibration, table=wide))["gpu"]
    accuracy = assess(run(simulate(lowered), frames), reference_of(run(huge, frames)), "here")
    assert _problem(accuracy, PRECISIONS["fp16"].budget) is None


def test_simulation_rounds_every_tensor(optimised: ir.Model) -> None:
    naive = all_fp16(optimised)
    simulated = simulate(naive)
    assert sixteen_bit_types(naive)
    assert not sixteen_bit_types(optimised)
    halves = [v for n in naive.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT16]
    rounded = [
        n for n in simulated.graph if n.op_type == "Cast" and str(n.name).endswith("@rounded")
    ]
    assert len(rounded) == len(halves)


def test_simulated_rounding_is_that_of_fp16() -> None:
    graph = ir.from_onnx_text(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[4] images) => (float[4] logits) {
            half = Cast <to = 10> (images)
            square = Mul (half, half)
            logits = Cast <to = 1> (square)
        }"""
    )
    for node, kind in zip(graph.graph, (10, 10, 1), strict=True):
        node.outputs[0].type = ir.TensorType(ir.DataType(kind))
    values = np.array([1.0009766, 300.0, 1e-5, 0.1], dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = (values.astype(np.float16) ** 2).astype(np.float32)
    np.testing.assert_array_equal(run(simulate(graph), values), expected)
    assert np.isinf(expected[1])


def quantised(weight: ir.DataType) -> ir.Model:
    """fp16 around a product of two dequantised tensors, the second of them a constant."""
    graph = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,2] images) => (float[2,2] logits)
        <float scale = {0.1}, int8[2,2] weight = {1, 2, 3, 4}> {
            half = Cast <to = 10> (images)
            small = QuantizeLinear <output_dtype = 3> (half, scale)
            left = DequantizeLinear (small, scale)
            right = DequantizeLinear (weight, scale)
            product = MatMul (left, right)
            logits = Cast <to = 1> (product)
        }"""
    )
    for node, kind in zip(graph.graph, (10, 3, 10, 10, 10, 1), strict=True):
        node.outputs[0].type = ir.TensorType(ir.DataType(kind))
    scale = graph.graph.initializers["scale"]
    scale.const_value = ir.tensor(np.array(0.1, np.float16), name="scale")
    scale.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.graph.initializers["weight"].type = ir.TensorType(weight)
    return graph


def rounded_tensors(model: ir.Model) -> set[str]:
    names = {str(node.name) for node in simulate(model).graph}
    return {name.removesuffix("@rounded") for name in names if name.endswith("@rounded")}


def test_operands_of_an_8_bit_product_are_not_rounded() -> None:
    model = quantised(ir.DataType.INT8)
    assert rounded_tensors(model) == {"half", "product"}
    scale, weight = np.float32(np.float16(0.1)), np.array([[1, 2], [3, 4]], np.float32)
    images = np.array([[1.05, -7.3], [0.2, 3.33]], np.float32)
    integers = np.rint(images.astype(np.float16).astype(np.float32) / scale)
    expected = (integers @ weight * scale * scale).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(simulate(model), images), expected)


def test_what_meets_other_numbers_than_8_bits_is_rounded() -> None:
    """A product with a 4-bit weight is computed in 16 bits."""
    everything = {"half", "left", "right", "product"}
    assert rounded_tensors(quantised(ir.DataType.INT4)) == everything
    seen = quantised(ir.DataType.INT8)
    left = next(n.outputs[0] for n in seen.graph if n.outputs[0].name == "left")
    seen.graph.append(ir.node("Abs", [left]))
    assert rounded_tensors(seen) == everything
