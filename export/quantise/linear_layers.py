"""Layers that a precision quantises: the Linears that share an input, the producers that can scale
it, and the decisions about the layer, for reports.

Several layers are searched at once, each on its own cores: a layer's matrices are too small to keep
all cores busy for long, and between products numpy uses only one core. On 2 cores, two layers at a
time take two thirds of the time of one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vit_edge.export.graph_edit import add_initializer, array, replace_input
from vit_edge.export.passes.linears import Linear, find_linears, linear_of, scale_output

from .grid import Floats

MIN_SIZE = 16
"""Products smaller than this gain nothing from INT8 (ModelOpt's rule)."""
_HEADS = [0, 2, 1, 3]
"""Permutation between `[B, N, heads, d]` and `[B, heads, N, d]`: keeps the order of channels."""


@dataclass(frozen=True)
class LinearLayer:
    """An activation `[..., K]` and the Linears that read it."""

    activation: ir.Value
    linears: tuple[Linear, ...]

    @property
    def name(self) -> str:
        return str(self.activation.name)

    @property
    def weights(self) -> NDArray[np.float32]:
        """float32 `[K, N]`: the weights of all Linears side by side."""
        return np.concatenate([array(linear.weight) for linear in self.linears], axis=1)


def quantisable(graph: ir.Graph) -> list[Linear]:
    """The Linears that are large enough to gain from quantisation."""
    return [linear for linear in find_linears(graph) if min(array(linear.weight).shape) >= MIN_SIZE]


def find_linear_layers(graph: ir.Graph) -> list[LinearLayer]:
    """The activations to quantise, each once, in graph order."""
    groups: dict[ir.Value, list[Linear]] = {}
    for linear in quantisable(graph):
        groups.setdefault(linear.activation, []).append(linear)
    return [LinearLayer(activation, tuple(linears)) for activation, linears in groups.items()]


class Scalable(Protocol):
    """Producer of an activation that can scale its channels exactly."""

    def scale(self, graph: ir.Graph, factor: NDArray[np.float32]) -> None:
        """Multiplies channel k of the activation by `factor[k]`."""


@dataclass(frozen=True)
class NormSource:
    """A LayerNormalization: its gain and bias are scaled."""

    node: ir.Node

    def scale(self, graph: ir.Graph, factor: NDArray[np.float32]) -> None:
        for value in self.node.inputs[1:]:
            if value is not None:
                scaled = array(value) * factor
                name = f"{self.node.name}/smoothed"
                replace_input(self.node, value, add_initializer(graph, name, scaled))


@dataclass(frozen=True)
class LinearSource:
    """Columns of a Linear in whose outputs the activation is linear, channel by channel: values,
    which attention only mixes over tokens, or the up branch of a gated MLP.
    """

    linear: Linear
    columns: slice

    def scale(self, graph: ir.Graph, factor: NDArray[np.float32]) -> None:
        scale_output(graph, self.linear, factor, self.columns)


def is_behind_gelu(layer: LinearLayer) -> bool:
    """True if a GELU computes the layer's activation, so that nothing before it can be scaled."""
    node = layer.activation.producer()
    return node is not None and node.op_type == "Gelu"


def find_scalable(layer: LinearLayer) -> Scalable | None:
    """Finds the producer that can be scaled in exchange for the layer's weights; None if there is
    none, as behind a GELU, or if something else reads the activation too.
    """
    readers = {linear.node for linear in layer.linears}
    if set(layer.activation.consumers()) != readers or layer.activation.is_graph_output():
        return None
    node = layer.activation.producer()
    if node is not None and node.op_type == "LayerNormalization":
        return NormSource(node)
    width = array(layer.linears[0].weight).shape[0]
    for value in _candidates(layer.activation):
        source = columns_of(value)
        if source is not None and _width(source) == width:
            return source
    return None


def _candidates(activation: ir.Value) -> Sequence[ir.Value]:
    """Values of which the activation is a channel-wise linear function."""
    node = behind_layout(activation)
    if node is None:
        return ()
    if node.op_type == "MatMul":  # attention weights times values
        values = node.inputs[1]
        return () if values is None else (values,)
    if node.op_type == "Mul":  # a gate times the up branch
        return [v for v in node.inputs if v is not None and not v.is_initializer()]
    return ()


def behind_layout(value: ir.Value) -> ir.Node | None:
    """The node that computes `value` before layout changes; None if others read that value too."""
    node = value.producer()
    while node is not None and _keeps_channels(node):
        before = node.inputs[0]
        if before is None or len(list(before.consumers())) != 1:
            return None
        node = before.producer()
    return node


def _keeps_channels(node: ir.Node) -> bool:
    if node.op_type == "Transpose":
        return list(node.attributes["perm"].as_ints()) == _HEADS
    return node.op_type == "Reshape"


def columns_of(value: ir.Value) -> LinearSource | None:
    """The Linear's columns that `value` holds after layout changes and an equal Split, or None."""
    while len(list(value.consumers())) == 1 and (node := value.producer()) is not None:
        if node.op_type == "Split" and "num_outputs" in node.attributes:
            return _part(node, node.outputs.index(value))
        if not _keeps_channels(node):
            linear = linear_of(value)
            return None if linear is None else LinearSource(linear, slice(None))
        before = node.inputs[0]
        if before is None:
            return None
        value = before
    return None


def _part(split: ir.Node, index: int) -> LinearSource | None:
    whole = split.inputs[0]
    linear = None if whole is None else linear_of(whole)
    if linear is None:
        return None
    width = array(linear.weight).shape[1] // len(split.outputs)
    return LinearSource(linear, slice(index * width, (index + 1) * width))


def _width(source: LinearSource) -> int:
    return int(array(source.linear.weight)[:, source.columns].shape[1])


MAX_WORKERS = 4
"""Limit, because each may take half a gigabyte for a ViT-L."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(compute: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yields `compute(item)` for each item in their order; exceptions of `compute` are raised here.

    `compute` must not change anything that it reads for another item.
    """
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(MAX_WORKERS, cores, len(items)))
    limits = threadpool_limits(max(1, cores // workers), user_api="blas")
    with limits, ThreadPoolExecutor(workers, thread_name_prefix="vit-edge-layer") as pool:
        yield from pool.map(compute, items)


@dataclass(frozen=True)
class Channels:
    """Maximum and median of the largest magnitudes of an activation's channels."""

    largest: float
    median: float


@dataclass(frozen=True)
class LayerExplanation:
    """Decisions about a layer's input.

    Attributes:
        layer: The activation's name.
        alpha: SmoothQuant's exponent; None if it was not smoothed.
        before, after: Its channels without and with smoothing.
        amax: The largest magnitude that its quantiser represents; None if it has none.
        sqnr_db: For each Linear that reads it, the signal-to-quantisation-noise ratio of the
            outputs on calibration samples, in decibels.
    """

    layer: str
    alpha: float | None
    before: Channels
    after: Channels
    amax: float | None
    sqnr_db: dict[str, float]


def describe_channels(channel_amax: Floats) -> Channels:
    """Summarises the largest magnitude of each channel, float32 `[K]`."""
    return Channels(float(channel_amax.max()), float(np.median(channel_amax)))


def sqnr_db(expected: Floats, lost: Floats) -> float:
    """Ratio in decibels of the power of `expected` to that of `lost`, the error of the computed
    values; at most 150 dB, the precision of fp32.
    """
    signal, noise = (float(np.mean(x.astype(np.float64) ** 2)) for x in (expected, lost))
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, signal * 1e-15, 1e-30)))
