"""Faults of quantised graphs, and of 16-bit ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer

from .edit import change_input, insert_before, node_of, stream_side, weight_dequantiser

Array = NDArray[np.generic]


# Activations


def activation_scale(model: ir.Model, layer: str, factor: float) -> None:
    """Of the whole pair: a range too small or too large."""
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        change_input(model, node_of(model, f"{layer}/{kind}"), 1, lambda s: s * factor)


def dequantiser_scale(model: ir.Model, layer: str, factor: float) -> None:
    """Of one side alone."""
    change_input(model, node_of(model, f"{layer}/DequantizeLinear"), 1, lambda s: s * factor)


def quantiser_scale(model: ir.Model, layer: str, factor: float) -> None:
    change_input(model, node_of(model, f"{layer}/QuantizeLinear"), 1, lambda s: s * factor)


def scales_swapped(model: ir.Model, first: str, second: str) -> None:
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        nodes = [node_of(model, f"{layer}/{kind}") for layer in (first, second)]
        mine, theirs = (node.inputs[1] for node in nodes)
        nodes[0].replace_input_with(1, theirs)
        nodes[1].replace_input_with(1, mine)


def activation_zero_point(model: ir.Model, layer: str, by: int) -> None:
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        change_input(model, node_of(model, f"{layer}/{kind}"), 2, lambda z: z + by)


def dequantiser_zero_point(model: ir.Model, layer: str, by: int) -> None:
    change_input(model, node_of(model, f"{layer}/DequantizeLinear"), 2, lambda z: z + by)


def scale_not_constant(model: ir.Model, layer: str) -> None:
    """Computed at run time."""
    node = node_of(model, f"{layer}/QuantizeLinear")
    scale = node.inputs[1]
    node.replace_input_with(1, insert_before(model, node, "Identity", [scale], f"{layer}/computed"))


# Weights


def weight_column_scale(model: ir.Model, linear: str, column: int, factor: float) -> None:
    def change(scales: Array) -> Array:
        scales[column] *= factor
        return scales

    change_input(model, weight_dequantiser(model, linear), 1, change)


def weight_scale(model: ir.Model, linear: str, change: Callable[[Array], Array]) -> None:
    change_input(model, weight_dequantiser(model, linear), 1, change)


def permuted(scales: Array) -> Array:
    return np.roll(scales, 1)


def reversed_(scales: Array) -> Array:
    return scales[::-1]


def one_for_all(scales: Array) -> Array:
    """Per tensor, though the integers were made per channel."""
    return np.full_like(scales, scales.max())


def weight_zero_point(model: ir.Model, linear: str, by: int) -> None:
    change_input(model, weight_dequantiser(model, linear), 2, lambda z: z + by)


def integers(model: ir.Model, linear: str, change: Callable[[Array], Array]) -> None:
    change_input(model, weight_dequantiser(model, linear), 0, change)


def transposed(weight: Array) -> Array:
    return weight.T


def next_rows(weight: Array) -> Array:
    return np.roll(weight, 1, axis=0)


def signs_flipped(weight: Array) -> Array:
    """Of every tenth."""
    flat = weight.reshape(-1)
    flat[::10] = -flat[::10]
    return flat.reshape(weight.shape)


def four_bits(weight: Array) -> Array:
    return np.clip(weight, -8, 7)


def seven_bits_wrapped(weight: Array) -> Array:
    """The sign bit lost."""
    return weight & 0x7F


def block_transposed(weight: Array) -> Array:
    """Its first 16 x 16, as a wrong layout does."""
    weight[:16, :16] = weight[:16, :16].T
    return weight


# Around them


def smoothing_forgotten(model: ir.Model, norm: str, factor: float) -> None:
    """A LayerNorm's gains and biases divided, and no weight multiplied."""
    node = node_of(model, f"{norm}/LayerNormalization")
    for index in (1, 2):
        change_input(model, node, index, lambda x: _first_quarter(x, 1 / factor))


def _first_quarter(x: Array, factor: float) -> Array:
    x[: len(x) // 4] *= factor
    return x


def stream_quantised(model: ir.Model, add: str, amax: float) -> None:
    """Q/DQ on a residual Add's output, for all that reads it."""
    tap = node_of(model, add).outputs[0]
    _quantise(model, tap, [(use.node, use.idx) for use in tap.uses()], amax)


def residual_side_quantised(model: ir.Model, add: str, amax: float) -> None:
    """Q/DQ before a residual Add, on the stream's side alone."""
    node = node_of(model, add)
    value = stream_side(model, add)
    _quantise(model, value, [(node, list(node.inputs).index(value))], amax)


def _quantise(
    model: ir.Model, value: ir.Value, users: list[tuple[ir.Node, int]], amax: float
) -> None:
    graph = model.graph
    scale = add_initializer(graph, "stream/scale", np.array(amax / 127, np.float32))
    zero = add_initializer(graph, "stream/zero", np.zeros((), np.int8))
    down = insert_before(model, users[0][0], "QuantizeLinear", [value, scale, zero], "stream/Q")
    down.type = ir.TensorType(ir.DataType.INT8)
    up = insert_before(model, users[0][0], "DequantizeLinear", [down, scale, zero], "stream/DQ")
    for node, index in users:
        node.replace_input_with(index, up)
    graph.sort()


# 16 bits


def decompose_layer_norms(model: ir.Model) -> None:
    """LayerNormalization in single steps, as older exporters write it."""
    graph = model.graph
    two = add_initializer(graph, "two", np.array(2, np.float32))
    axes = add_initializer(graph, "last", np.array([-1]))
    for norm in [n for n in graph if n.op_type == "LayerNormalization"]:
        _decompose(model, norm, two, axes)


def _decompose(model: ir.Model, norm: ir.Node, two: ir.Value, axes: ir.Value) -> None:
    x, gain, bias = norm.inputs
    name, graph = str(norm.name), model.graph
    small = add_initializer(graph, f"{name}/epsilon", np.array(1e-6, np.float32))

    def step(op_type: str, inputs: list[ir.Value | None], suffix: str) -> ir.Value:
        return insert_before(model, norm, op_type, inputs, f"{name}/{suffix}")

    mean = step("ReduceMean", [x, axes], "mean")
    centred = step("Sub", [x, mean], "centred")
    variance = step("ReduceMean", [step("Pow", [centred, two], "square"), axes], "variance")
    for value in (mean, variance):
        value.shape = None
    root = step("Sqrt", [step("Add", [variance, small], "safe")], "root")
    gained = step("Mul", [step("Div", [centred, root], "normal"), gain], "gained")
    norm.outputs[0].replace_all_uses_with(step("Add", [gained, bias], "result"))
    graph.remove(norm, safe=True)


def mantissa_cut(model: ir.Model, linear: str, bits: int) -> None:
    """A Linear's weight with so few bits of mantissa."""

    def change(weight: Array) -> Array:
        mantissa, exponent = np.frexp(weight.astype(np.float32))
        return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)

    name = f"{linear}/MatMul"
    change_input(model, node_of(model, name), 1, change)


def underflowing(model: ir.Model, linear: str, factor: float) -> None:
    """A Linear's weight made too small for fp16, and its output large again."""
    node = node_of(model, f"{linear}/MatMul")
    change_input(model, node, 1, lambda w: w / factor)
    back = add_initializer(model.graph, f"{linear}/back", np.array(factor, np.float32))
    users = [(use.node, use.idx) for use in node.outputs[0].uses()]
    value = insert_before(model, users[0][0], "Mul", [node.outputs[0], back], f"{linear}/large")
    for user, index in users:
        user.replace_input_with(index, value)


def overflowing(model: ir.Model, linear: str, factor: float) -> None:
    """A Linear's weight made too large for fp16, and its output small again."""
    underflowing(model, linear, 1 / factor)


def nothing(model: ir.Model) -> None:
    """The lowering itself is the fault: fp16 without an island, where the stream is too large."""
