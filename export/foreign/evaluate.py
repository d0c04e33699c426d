"""Computes parts of a graph with numpy in float64.

Exporters write one function in many ways. What a piece of graph computes is the same in all of
them, so the fusions ask that and not how it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array = NDArray[np.float64]

ELEMENTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Erf", "Tanh", "Cast",
        "Sigmoid",
    }
)  # fmt: skip
LAYOUT = frozenset(
    {"Reshape", "Transpose", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Flatten"}
)
MAX_NODES = 24
"""The longest piece of graph that is looked at: a TensorFlow LayerNorm has 12 nodes."""


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The data of an initializer, floats in float64; None for anything else."""
    if value is None or value.const_value is None:
        return None
    data = value.const_value.numpy()
    return data.astype(np.float64) if np.issubdtype(data.dtype, np.floating) else data


def scalar(value: ir.Value | None) -> float | None:
    """The number in an initializer of size 1; None for anything else."""
    data = constant(value) if value is not None and _size(value) == 1 else None
    return None if data is None else float(data.item())


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)


def compute(node: ir.Node, known: Mapping[ir.Value, Array]) -> list[Array] | None:
    """The outputs of `node` for `known` inputs and constants; None if an input is neither, or the
    shapes do not fit.
    """
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in node.inputs:
        if value is None:
            continue
        data = known[value] if value in known else constant(value)
        if data is None:
            return None
        feeds[str(value.name)] = data
    if node.op_type == "Cast":
        return [known[v] for v in node.inputs if v is not None and v in known] or None
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(ir.to_proto(node)).run(None, feeds)
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None
    return list(results)


def spread(
    start: ir.Value, data: Array, operators: Collection[str]
) -> Iterator[tuple[ir.Node, Array]]:
    """The nodes that compute something from `start` and constants alone, and what they give.

    They come in an order in which they can run; only the first output of a node is followed.
    """
    known, waiting, done = {start: data}, [start], 0
    while waiting and done < MAX_NODES:
        for node in list(waiting.pop(0).consumers()):
            if node.op_type not in operators or node.outputs[0] in known:
                continue
            results = compute(node, known)
            if results is None:
                continue
            done += 1
            known[node.outputs[0]] = results[0]
            waiting.append(node.outputs[0])
            yield node, results[0]
