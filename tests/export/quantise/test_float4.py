"""NVFP4's numbers against the definition of its types, and the graph that simulates them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from vit_edge.export.measure import has_float4, in_standard_operators
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.quantise.float4 import (
    BLOCK,
    Float4Scheme,
    fake_quantise,
    float4_layers,
    plain_scales,
    scale_of_weights,
    search_scales,
    tensor_scale,
)
from vit_edge.export.quantise.float4_qdq import quantise_activation, quantise_weight
from vit_edge.export.quantise.grid import FP4_GRID, Floats, for_each_weight, round_to_nearest

E2M1, E4M3 = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn
NUMBERS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
RNG = np.random.default_rng(0)


def by_definition(rows: Floats, scale: np.float32) -> Floats:
    """NVFP4 as it is defined, block by block, with the types of `ml_dtypes`."""
    result = np.empty_like(rows)
    for row, out in zip(rows, result, strict=True):
        for start in range(0, len(row), BLOCK):
            block = row[start : start + BLOCK]
            exact = np.minimum(np.abs(block).max() / np.float32(6) / scale, np.float32(448))
            step = exact.astype(E4M3).astype(np.float32) * scale
            if step == 0:
                out[start : start + BLOCK] = 0
                continue
            clipped = np.clip(block / step, -6, 6).astype(np.float32)
            out[start : start + BLOCK] = clipped.astype(E2M1).astype(np.float32) * step
    return result


def rows_of_all_kinds() -> tuple[Floats, np.float32]:
    """Blocks of every size, and a tensor's scale: some saturate E4M3, some are below its normal
    numbers, some below all of them, one is nothing but zeros.
    """
    scale = np.float32(2.0**-6)
    sizes = np.float32(2.0) ** np.arange(-20, 10, dtype=np.float32)
    rows = RNG.standard_normal((4 * len(sizes), 3 * BLOCK)).astype(np.float32)
    rows *= np.tile(sizes, 4)[:, None]
    rows[5, :BLOCK] = 0
    rows[7] = -0.0
    return rows, scale


def rows_of_ties() -> tuple[Floats, np.float32]:
    """A block whose scale is exactly 1, and each number halfway between two of the grid."""
    halfway = (NUMBERS[1:] + NUMBERS[:-1]) / 2
    block = np.concatenate([[6.0], halfway, -halfway, [-6.0]]).astype(np.float32)
    return np.stack([block, block * np.float32(0.5), block * np.float32(2)]), np.float32(2.0**-7)


def run(model: ir.Model, rows: Floats) -> Floats:
    proto = ir.to_proto(in_standard_operators(model)).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    result: Floats = session.run(None, {"x": rows})[0]
    return result


def graph_of(dtype: ir.DataType, channels: int) -> tuple[ir.Model, ir.Value]:
    """`x` float32 `[N, channels]`, cast to `dtype`; returns the cast tensor too."""
    x = ir.val("x", ir.DataType.FLOAT, [None, channels])
    node = ir.node("Cast", [x], {"to": dtype}, name="y")
    value = node.outputs[0]
    value.name, value.shape, value.type = "y", x.shape, ir.TensorType(dtype)
    graph = ir.Graph([x], [], nodes=[node], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=11), value


@pytest.mark.parametrize("make", [rows_of_all_kinds, rows_of_ties])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
def test_the_simulation_computes_what_the_format_defines(make, dtype: ir.DataType) -> None:  # type: ignore[no-untyped-def]
    rows, scale = make()
    rows = rows.astype(dtype.numpy()).astype(np.float32)
    model, value = graph_of(dtype, rows.shape[1])
    model.graph.outputs.append(quantise_activation(model.graph, value, scale))
    expected = by_definition(rows, scale)
    np.testing.assert_array_equal(run(model, rows), expected)
    np.testing.assert_array_equal(fake_quantise(rows, scale), expected)
    assert (expected != rows).any()


def test_ties_go_to_the_even_number() -> None:
    rows, scale = rows_of_ties()
    expected = np.array([0, 1, 1, 2, 2, 4, 4], np.float32)
    got = fake_quantise(rows[:1], scale)[0]
    np.testing.assert_array_equal(got[1:8], expected)
    np.testing.assert_array_equal(got[8:15], -expected)


def test_what_goes_beyond_the_calibration_is_clipped() -> None:
    scale = tensor_scale(6.0)
    rows = np.full((1, BLOCK), 3.0, np.float32)
    rows[0, 0] = 12.0
    got = fake_quantise(rows, scale)
    assert got[0, 0] == pytest.approx(6.0)
    assert got[0, 1] == pytest.approx(3.0)


def test_a_tensors_largest_number_takes_the_largest_of_both_types() -> None:
    rows = RNG.standard_normal((4, 64)).astype(np.float32)
    scale = tensor_scale(np.abs(rows).max())
    assert scale * np.float32(6 * 448) == pytest.approx(np.abs(rows).max())
    assert tensor_scale(np.float32(0)) > 0


def weight() -> Floats:
    return (RNG.standard_t(3, (64, 24)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("searched", [False, True])
def test_a_weight_is_stored_as_both_types_hold_it(searched: bool) -> None:
    matrix = weight()
    matrix[:BLOCK, 0] = 0
    scale = scale_of_weights([matrix])
    importance = RNG.random(64).astype(np.float32)
    scales = search_scales(matrix, importance, scale) if searched else plain_scales(matrix, scale)
    assert scales.shape == (4, 24)
    assert (scales > 0).all()
    numbers = round_to_nearest(matrix, scales, FP4_GRID)
    model, value = graph_of(ir.DataType.FLOAT, 64)
    constant = ir.val("w", const_value=ir.tensor(matrix, name="w"))
    model.graph.register_initializer(constant)
    product = ir.node("MatMul", [value, constant], name="linear/MatMul")
    product.outputs[0].name = "z"
    model.graph.append(product)
    model.graph.outputs.append(product.outputs[0])
    (linear,) = find_linears(model.graph)
    quantise_weight(model.graph, linear, numbers, scales, scale)
    stored = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT4E2M1]
    assert [v.shape for v in stored] == [(64, 24)]
    assert has_float4(model.graph)
    got = run(model, np.eye(64, dtype=np.float32))
    np.testing.assert_array_equal(got, numbers * for_each_weight(scales, matrix.shape))
    np.testing.assert_array_equal(got[:BLOCK, 0], 0)
    assert not has_float4(in_standard_operators(model).graph)


def test_plain_scales_are_those_of_the_largest_magnitudes() -> None:
    matrix = weight()
    scale = tensor_scale(np.abs(matrix).max())
    got = plain_scales(matrix, scale) / scale
    for block, row in zip(matrix.reshape(4, BLOCK, 24), got, strict=True):
        expected = (np.abs(block).max(axis=0) / np.float32(6) / scale).astype(E4M3)
        np.testing.assert_allclose(row, expected.astype(np.float32), rtol=1e-6)


def test_searched_scales_lose_less_than_plain_ones() -> None:
    matrix, importance = weight(), RNG.random(64).astype(np.float32)
    scale, errors = scale_of_weights([matrix]), []
    for scales in (search_scales(matrix, importance, scale), plain_scales(matrix, scale)):
        steps = for_each_weight(scales, matrix.shape)
        lost = round_to_nearest(matrix, scales, FP4_GRID) * steps - matrix
        errors.append((importance[:, None] * lost**2).reshape(4, BLOCK, 24).sum(axis=1))
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert errors[0].sum() < 0.85 * errors[1].sum()


def test_whole_blocks_that_tensorrt_takes_are_quantised(
    optimised: ir.Model,
) -> None:
    graph = optimised.clone().graph
    layers = float4_layers(graph)
    assert len(layers) == 8
    layers[0].activation.shape = ir.Shape([2, *list(layers[0].activation.shape or ())])
    assert len(float4_layers(graph)) == 7
    odd = ir.tensor(np.zeros((24, 64), np.float32), name="odd")
    layers[1].linears[0].weight.const_value = odd
    assert len(float4_layers(graph)) == 6


def test_the_two_schemes_are_told_apart() -> None:
    assert str(Float4Scheme()) != str(Float4Scheme(activations=None))
    assert FP4_GRID.round(NUMBERS).tolist() == NUMBERS.tolist()
