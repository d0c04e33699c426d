"""Plain lowerings of a model to given types, which show the errors that a number format explains.

What a format loses depends on the model: on how long its sums are, how large its activations get
and how much of them cancels. So a segment over its limit is compared with the same segment of a
plain lowering of the fp32 graph, calibrated on the images of the check: outliers are smoothed, each
range is the one with the least error, each weight is rounded to nearest, nothing is corrected. It
shares no number with the lowering that is checked, and so none of its faults.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import collect
from vit_edge.calibration.observers import SEARCH, Origin
from vit_edge.export.measure import SIXTEEN_BIT, simulate, sixteen_bit_types
from vit_edge.export.precision.cast import cast_to
from vit_edge.export.progress import ignore
from vit_edge.export.quantise.algorithms import algorithm_of
from vit_edge.export.quantise.attention import (
    attention_tensors,
    quantise_attention,
    scaling_of_values,
)
from vit_edge.export.quantise.convolutions import (
    find_convolution_layers,
    quantise_convolutions_by_table,
)
from vit_edge.export.quantise.float4 import Float4Scheme
from vit_edge.export.quantise.float4_qdq import QUANTISER
from vit_edge.export.quantise.grid import FP4_GRID, GRIDS, Floats, Grid, Scheme, best_range
from vit_edge.export.quantise.linear_layers import find_linear_layers
from vit_edge.export.quantise.linears import Smoothed
from vit_edge.runtime.errors import EngineError, InputError
from vit_edge.runtime.tools.images import ImageSet

from .joined import join_teacher_forced
from .judge import Observed, observe
from .probes import Probe

_NOBODY = Origin("", "")


class PlainLowerings:
    """Plain lowerings of one fp32 graph, observed over the same images. All lowerings to the same
    types share one, because a repair tries many.
    """

    def __init__(self) -> None:
        self._observed: dict[object, Observed | None] = {}

    def observe(
        self, lowered: ir.Model, fp32: ir.Model, images: ImageSet, probes: Sequence[Probe]
    ) -> Observed | None:
        """Observes a plain lowering to the types of `lowered`; None if it fails or overflows.

        Args:
            lowered: A precision's graph.
            fp32: The graph that it was made from, the same at every call.
            images: Those of the check, the same at every call.
            probes: Those of `fp32`.
        """
        narrow = frozenset(node.name for node in fp32.graph) & _narrow(lowered.graph)
        types = (_scheme(lowered.graph), frozenset(sixteen_bit_types(lowered)), narrow)
        if types not in self._observed:
            self._observed[types] = _observe(lowered, fp32, images, probes)
        return self._observed[types]


def _observe(
    lowered: ir.Model, fp32: ir.Model, images: ImageSet, probes: Sequence[Probe]
) -> Observed | None:
    try:
        plain = lower_plainly(lowered, fp32, images)
        observed = observe(join_teacher_forced(plain, fp32, probes), images)
    except (EngineError, InputError):
        return None
    finite = all(np.isfinite(sums).all() for sums in observed.sums)
    return observed if finite and np.isfinite(observed.outputs).all() else None


def lower_plainly(lowered: ir.Model, fp32: ir.Model, images: ImageSet) -> ir.Model:
    """Lowers `fp32` to the types of `lowered`; it computes in fp32, with 16 bits simulated."""
    plain, scheme = fp32.clone(), _scheme(lowered.graph)
    if scheme is not None:
        _quantise(plain, scheme, images)
        plain.opset_imports.update(lowered.opset_imports)
    for dtype in sixteen_bit_types(lowered):
        wide = {node.name for node in lowered.graph} - _narrow(lowered.graph)
        cast_to(plain.graph, dtype, lambda node: node.name in wide)  # noqa: B023 (called at once)
        plain = simulate(plain)
    return plain


def _narrow(graph: ir.Graph) -> set[str | None]:
    """Names of the nodes with 16-bit outputs."""
    return {n.name for n in graph if any(value.dtype in SIXTEEN_BIT for value in n.outputs)}


def _scheme(graph: ir.Graph) -> Scheme | None:
    """The scheme that a lowered graph is quantised with; None if it has no quantised weights."""
    weights = [n for n in graph if n.op_type == "DequantizeLinear" and _is_weight(n)]
    quantisers = [n for n in graph if n.op_type == "QuantizeLinear"]
    if not weights:
        return None
    first = weights[0]
    assert first.inputs[0] is not None
    softmaxes = [n for n in quantisers if _is_softmax(n.inputs[0])]
    grids = [GRIDS[dtype] for n in quantisers[:1] if (dtype := n.outputs[0].dtype) is not None]
    grid = grids[0] if grids else None
    dtype = first.inputs[0].dtype
    assert dtype is not None
    if any(n.inputs[0] is not None and n.inputs[0].dtype == FP4_GRID.dtype for n in weights):
        dynamic = any(n.op_type == QUANTISER for n in graph)
        return Float4Scheme(activations=FP4_GRID if dynamic else None)
    block = first.attributes.get_int("block_size", 0) or None
    return Scheme(GRIDS[dtype], grid, block, grid if softmaxes else None)


def _is_weight(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].is_initializer()


def _is_softmax(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def _quantise(model: ir.Model, scheme: Scheme, images: ImageSet) -> None:
    """Quantises every layer in place."""
    graph, algorithm = model.graph, algorithm_of(scheme)
    layers, convolutions = find_linear_layers(graph), find_convolution_layers(graph, scheme)
    names = [*(layer.name for layer in layers), *(layer.name for layer in convolutions)]
    names += [] if scheme.attention is None else attention_tensors(graph)
    smoothed: dict[str, Smoothed] = {}
    observed = collect(model, tuple(dict.fromkeys(names)), images, SEARCH, _NOBODY, ignore)
    if scheme.activations is not None:
        smoothed = algorithm.smooth_all(graph, observed.samples, scheme, ignore)
        rows = {name: samples.rows for name, samples in observed.samples.items()}
        rows.update({name: layer.rows for name, layer in smoothed.items()})
        ranges = {name: _range(values, scheme.activations) for name, values in rows.items()}
        algorithm.quantise_by_table(graph, ranges, scheme)
        quantise_convolutions_by_table(graph, ranges, scheme)
    else:
        algorithm.quantise_by_table(graph, {}, scheme)
    if scheme.attention is not None:
        scaling = scaling_of_values(graph, smoothed) if smoothed else {}
        quantise_attention(graph, observed, scaling, scheme.attention)


def _range(rows: Floats, grid: Grid) -> float:
    return float(best_range(np.ascontiguousarray(rows), np.ones(rows.shape[1], np.float32), grid))
