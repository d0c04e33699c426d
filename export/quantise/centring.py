"""Centres the channels of activations, so that block scales are spent on what varies.

A block's scale follows its largest magnitude, and every number of it errs in proportion. What a
channel is on average is known beforehand: it is subtracted, and given back by the bias of the
Linear. Behind a LayerNormalization that is a change of its bias, and free; elsewhere, as behind a
GELU, it is one elementwise operation more, which compilers fuse.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, array, describe, replace_input
from vit_edge.export.passes.linears import as_linear

from .grid import Floats
from .linears import Smoothed, correct_bias
from .sites import NormSource, Site, find_scalable

MIN_SHARE = 0.03
"""Share of an activation's power that has to be constant."""


def centre(graph: ir.Graph, site: Site, smoothed: Smoothed) -> Smoothed:
    """Subtracts each channel's mean in place, which changes no output, where that pays and every
    Linear has a bias to give it back. The activation keeps its name.

    Args:
        graph: The fp32 graph.
        site: One of its sites, after smoothing.
        smoothed: Its samples, likewise.
    """
    rows, linears = smoothed.rows, [as_linear(linear.node) for linear in site.linears]
    site = Site(site.activation, tuple(linear for linear in linears if linear is not None))
    mean: Floats = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    power = max(float(np.square(rows, dtype=np.float64).mean()), 1e-30)
    share = float(np.square(mean, dtype=np.float64).mean()) / power
    source = find_scalable(site)
    if share < MIN_SHARE or not _can_be_centred(site, source):
        return smoothed
    for linear in site.linears:
        correct_bias(graph, linear, mean @ array(linear.weight))
    if isinstance(source, NormSource):
        _shift_norm(graph, source.node, mean)
    else:
        _subtract(graph, site.activation, mean)
    amax = smoothed.channel_amax + np.abs(mean)
    centred = np.ascontiguousarray(rows - mean)
    return Smoothed(centred, amax, smoothed.alpha, smoothed.factor)


def _can_be_centred(site: Site, source: object) -> bool:
    """False without biases, and for values, whose own Linear would have to be shifted too."""
    if any(linear.bias is None for linear in site.linears):
        return False
    readers = {linear.node for linear in site.linears}
    alone = set(site.activation.consumers()) == readers and not site.activation.is_graph_output()
    if isinstance(source, NormSource):
        return len(source.node.inputs) > 2 and source.node.inputs[2] is not None
    return alone and source is None and site.activation.producer() is not None


def _shift_norm(graph: ir.Graph, norm: ir.Node, mean: Floats) -> None:
    bias = norm.inputs[2]
    assert bias is not None
    shifted = add_initializer(graph, f"{norm.name}/centred", array(bias) - mean)
    replace_input(norm, bias, shifted)


def _subtract(graph: ir.Graph, value: ir.Value, mean: Floats) -> None:
    """Gives what is read under the name of `value` zero means; `value` gets another name."""
    name, producer = str(value.name), value.producer()
    assert producer is not None
    amount = add_initializer(graph, f"{name}/mean", mean)
    node = ir.node("Sub", [value, amount], name=f"{name}/centred")
    value.replace_all_uses_with(node.outputs[0])
    node.replace_input_with(0, value)
    value.name = f"{name}@uncentred"
    graph.insert_after(producer, node)
    describe(node.outputs[0], name, value.shape, ir.DataType.FLOAT)
