"""Quantises attention's two products so that TensorRT fuses them into one kernel.

Attention with a single query, as in a last block of which only the class token is read, is not
quantised: in 16 bits TensorRT runs it as one kernel, in 8 bits as eight.

Source: NVIDIA TensorRT's rules for fused multi-head attention: Q/DQ on both operands of Q K^T, on
the Softmax's output and on V; the output of the second product is the input of the projection,
which carries Q/DQ already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import Calibration, LayerSamples
from vit_edge.runtime.errors import InputError

from .grid import (
    Floats,
    Grid,
    IntegerGrid,
    best_range,
    fake_quantise,
    representable_scale,
    thin_out,
)
from .linear_layers import LinearSource, behind_layout, columns_of, find_linear_layers
from .linears import Smoothed, quantise_activation

HEAD_SIZES = (16, 32, 64)
MAX_TOKENS = 512
"""Limits of TensorRT's fused INT8 kernels."""
_LAYOUT = ("Transpose", "Reshape")
MIN_GAIN = 1.5
"""Factor by which the error of Q K^T must fall for channels to be balanced."""


@dataclass(frozen=True)
class Attention:
    """`scores = MatMul(q, k^T)`, Softmax, `mixed = MatMul(softmax, v)`; all `[B, heads, ...]`."""

    scores: ir.Node
    softmax: ir.Node
    mixed: ir.Node

    @property
    def name(self) -> str:
        """The module's name, as `blocks.0.attn`."""
        return str(self.softmax.name).rpartition("/")[0]

    @property
    def single_query(self) -> bool:
        shape = self.softmax.outputs[0].shape
        return shape is not None and shape[-2] == 1

    @property
    def operands(self) -> tuple[ir.Value, ...]:
        """Q, K^T, V as they enter the products."""
        values = (*self.scores.inputs, self.mixed.inputs[1])
        return tuple(value for value in values if value is not None)


def find_attentions(graph: ir.Graph) -> list[Attention]:
    """Every attention of the graph, in order."""
    attentions = []
    for node in graph:
        if node.op_type != "Softmax" or len(list(node.outputs[0].consumers())) != 1:
            continue
        (mixed,) = node.outputs[0].consumers()
        scores = node.inputs[0].producer() if node.inputs[0] is not None else None
        if (
            scores is not None
            and all(n.op_type == "MatMul" for n in (scores, mixed))
            and mixed.inputs[0] is node.outputs[0]
        ):
            attentions.append(Attention(scores, node, mixed))
    return attentions


def quantisable_attentions(graph: ir.Graph) -> list[Attention]:
    """The attentions with more than one query, in order."""
    return [attention for attention in find_attentions(graph) if not attention.single_query]


def attention_tensors(graph: ir.Graph) -> tuple[str, ...]:
    """The tensors whose samples `quantise_attention` needs.

    Raises:
        InputError: if TensorRT has no fused kernel for this model's attention.
    """
    attentions = quantisable_attentions(graph)
    if not attentions:
        raise InputError("the model has no attention of the form MatMul, Softmax, MatMul")
    names: list[str] = []
    for attention in attentions:
        _require_fusible(attention)
        values = [_channels(v) for v in attention.operands]
        names += [str(v.name) for v in (*values, attention.softmax.outputs[0])]
    return tuple(dict.fromkeys(names))


def _require_fusible(attention: Attention) -> None:
    shape = attention.operands[-1].shape
    tokens, size = (shape[-2], shape[-1]) if shape is not None else (None, None)
    if size not in HEAD_SIZES or not isinstance(tokens, int) or tokens > MAX_TOKENS:
        raise InputError(
            f"{attention.name} has {tokens} tokens and heads of {size}: TensorRT fuses quantised "
            f"attention for at most {MAX_TOKENS} tokens and heads of "
            f"{', '.join(map(str, HEAD_SIZES))}; choose the precision without it"
        )


def _channels(value: ir.Value) -> ir.Value:
    """The value before it was split into heads, `[B, N, K]`: output of a Linear or a Split."""
    while (node := value.producer()) is not None and node.op_type in _LAYOUT:
        before = node.inputs[0]
        if before is None:
            break
        value = before
    return value


Scaling = Mapping[str, Floats]
"""Factors by which channels were multiplied since calibration, by the tensor's name."""


def balance_all(graph: ir.Graph, calibration: Calibration, grid: Grid) -> Scaling:
    """Balances the channels of every Q and K in place: q_c f_c and k_c / f_c have the same product.

    The function is unchanged. This is done where both come from Linears and the error of the
    products falls by `MIN_GAIN`. Returns the factors.
    """
    factors: dict[str, Floats] = {}
    for attention in quantisable_attentions(graph):
        q, k = (_channels(value) for value in attention.operands[:2])
        samples = [calibration.samples.get(str(value.name)) for value in (q, k)]
        factor = _balance(samples[0], samples[1], grid)
        if factor is None or _source(q) is None or _source(k) is None:
            continue
        for value, scale in ((q, factor), (k, np.reciprocal(factor))):
            source = _source(value)  # again: scaling Q gave the Linear that both share new weights
            assert source is not None
            source.scale(graph, scale)
            factors[str(value.name)] = scale
    return factors


def _source(value: ir.Value) -> LinearSource | None:
    node = value.producer()
    if node is not None and node.op_type == "Slice" and node.inputs[0] is not None:
        value = node.inputs[0]  # the class token's queries
    return columns_of(value)


def _balance(q: LayerSamples | None, k: LayerSamples | None, grid: Grid) -> Floats | None:
    """The factors for Q's channels, powers of two; None where the error does not fall enough."""
    if q is None or k is None or q.channel_amax.shape != k.channel_amax.shape:
        return None
    largest = [np.maximum(s.channel_amax, 1e-6) for s in (q, k)]
    factor: Floats = np.exp2(np.rint(0.5 * np.log2(largest[1] / largest[0]))).astype(np.float32)
    rows = [thin_out(np.ascontiguousarray(s.rows)) for s in (q, k)]
    plain = _product_error(rows[0], rows[1], grid)
    balanced = _product_error(rows[0] * factor, rows[1] / factor, grid)
    return factor if balanced * MIN_GAIN < plain else None


def _product_error(q: Floats, k: Floats, grid: Grid) -> float:
    """The squared error of the products when both are quantised, channel by channel."""
    power = [(x**2).mean(axis=0) for x in (q, k)]
    error = 0.0
    for x, other in ((q, power[1]), (k, power[0])):
        scale = representable_scale(np.array(best_range(x, other, grid)), grid)
        error += float(((fake_quantise(x, scale, grid) - x) ** 2).mean(axis=0) @ other)
    return error


def scaling_of_values(graph: ir.Graph, smoothed: Mapping[str, Smoothed]) -> Scaling:
    """Factors by which smoothing the projections' inputs scaled the channels of V."""
    mixed = {a.mixed: str(_channels(a.operands[2]).name) for a in find_attentions(graph)}
    factors: dict[str, Floats] = {}
    for layer in find_linear_layers(graph):
        node, factor = behind_layout(layer.activation), smoothed[layer.name].factor
        if node is not None and node in mixed and factor is not None:
            factors[mixed[node]] = np.reciprocal(factor)
    return factors


def quantise_attention(
    graph: ir.Graph, calibration: Calibration, scaling: Scaling, grid: Grid
) -> None:
    """Puts Q/DQ around every attention's products, in place.

    Args:
        graph: The graph, smoothed and balanced.
        calibration: With samples of `attention_tensors`; with their ranges for plain methods.
        scaling: Factors by which these were multiplied since.
        grid: The grid of Q, K, V and the attention weights.
    """
    for attention in quantisable_attentions(graph):
        readers = (attention.scores, attention.mixed)
        for value, amax in _ranges(attention, calibration, scaling, grid):
            scale = representable_scale(np.array(amax, np.float32), grid)
            read = quantise_activation(graph, value, scale, grid)
            for node in readers:
                for index, operand in enumerate(node.inputs):
                    if operand is value:
                        node.replace_input_with(index, read)


def _ranges(
    attention: Attention, calibration: Calibration, scaling: Scaling, grid: Grid
) -> list[tuple[ir.Value, float]]:
    """The operands, and the largest magnitude that each quantiser represents."""
    values = {value: _channels(value) for value in attention.operands}
    weights = attention.softmax.outputs[0]
    names = {value: str(origin.name) for value, origin in (*values.items(), (weights, weights))}
    if not calibration.samples:
        return [(value, calibration.table.amax[name]) for value, name in names.items()]
    rows = {value: _rows(calibration, scaling, name) for value, name in names.items()}
    q, k, v = attention.operands
    power = {value: (rows[value] ** 2).mean(axis=0) for value in (q, k)}
    importance = {q: power[k], k: power[q], v: np.ones(rows[v].shape[1], np.float32)}
    if importance[q].shape != power[q].shape:
        importance |= {value: np.ones_like(power[value]) for value in (q, k)}
    ranges = {value: float(best_range(rows[value], importance[value], grid)) for value in values}
    ranges[weights] = _softmax_range(rows[weights], grid)
    return list(ranges.items())


def _softmax_range(rows: Floats, grid: Grid) -> float:
    """1 for floating-point grids, as in NVIDIA's kernel; for integers the best range, at most 1."""
    if not isinstance(grid, IntegerGrid):
        return 1.0
    return min(1.0, float(best_range(rows, np.ones(rows.shape[1], np.float32), grid)))


def _rows(calibration: Calibration, scaling: Scaling, name: str) -> Floats:
    rows = np.ascontiguousarray(calibration.samples[name].rows)
    factor = scaling.get(name)
    return rows if factor is None else np.ascontiguousarray(rows * factor)
