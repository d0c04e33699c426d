"""All outputs as one vector for each image, in which each output counts alike.

Searches and checks compare graphs by one number. A vector of several outputs has them side by side,
each relative to its scale and the root of its share of the numbers: the mean square over the vector
is the mean over outputs of their relative mean squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, describe
from vit_edge.runtime.outputs import OutputSpec, spread, unpack

JOINED = "joined_outputs"
"""Name of the vector."""


def _is_vector(outputs: Sequence[OutputSpec]) -> bool:
    """True if there is nothing to join: one output, a vector already."""
    return len(outputs) == 1 and len(outputs[0].shape) == 1


def _factors(outputs: Sequence[OutputSpec]) -> list[float]:
    """Factor of each output in the vector."""
    if len(outputs) == 1:
        return [1.0]
    width = sum(output.size for output in outputs)
    shares = [width / (len(outputs) * output.size) for output in outputs]
    return [sqrt(s) / (o.scale or 1.0) for s, o in zip(shares, outputs, strict=True)]


def join_outputs(model: ir.Model, outputs: Sequence[OutputSpec]) -> ir.Model:
    """Returns `model` with one output float32 `[batch, width]`: itself where it has that already,
    else a copy.
    """
    if _is_vector(outputs):
        return model
    joined = model.clone()
    graph = joined.graph
    batch = next((v.shape[0] for v in graph.outputs if v.shape), "batch")
    shape = add_initializer(graph, f"{JOINED}/shape", np.array([0, -1], np.int64))
    parts = []
    values = {str(value.name): value for value in graph.outputs}
    for output, factor in zip(outputs, _factors(outputs), strict=True):
        name, value = f"{JOINED}/{output.name}", values[output.name]
        if not output.shape:  # [N] has no second dimension to keep
            wider = add_initializer(graph, f"{name}/shape", np.array([-1, 1], np.int64))
            node = ir.node("Reshape", [value, wider], name=name)
        else:
            node = ir.node("Reshape", [value, shape], name=name)
        size = ir.Shape([batch, output.size])
        flat = describe(node.outputs[0], name, size, ir.DataType.FLOAT)
        constant = add_initializer(graph, f"{name}/factor", np.array(factor, np.float32))
        scaled = ir.node("Mul", [flat, constant], name=f"{name}/Mul")
        describe(scaled.outputs[0], f"{name}/scaled", size, ir.DataType.FLOAT)
        graph.extend([node, scaled])
        parts.append(scaled.outputs[0])
    concat = ir.node("Concat", parts, {"axis": 1}, name=JOINED)
    width = sum(output.size for output in outputs)
    end = describe(concat.outputs[0], JOINED, ir.Shape([batch, width]), ir.DataType.FLOAT)
    graph.append(concat)
    graph.outputs[:] = [end]
    return joined


def join_values(
    packed: NDArray[np.float32], outputs: Sequence[OutputSpec]
) -> tuple[NDArray[np.float32], float]:
    """Returns packed outputs `[N, width]` as the vectors that a joined graph gives, and the scale
    that errors of them are relative to.
    """
    if len(outputs) == 1:
        return packed, outputs[0].scale or spread(packed)
    views = unpack(packed, outputs)
    parts = [
        views[o.name].reshape(len(packed), -1) * np.float32(factor)
        for o, factor in zip(outputs, _factors(outputs), strict=True)
    ]
    return np.concatenate(parts, axis=1), 1.0
