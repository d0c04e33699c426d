"""Computes what a foreign graph does: all of it in ONNX Runtime, which is the oracle for every
change, and pieces with numpy in float64.

Exporters write one function in many ways. What a piece of graph computes is the same in all of
them, so the fusions ask that and not how it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.runtime.backends.onnxruntime import add_external_weights, load_library
from vit_edge.runtime.errors import InputError, first_line

AnyArray = NDArray[np.generic]


class OnnxRunner:
    """An ONNX Runtime session on the CPU."""

    def __init__(self, model: ir.Model, all_values: Sequence[ir.Value] = ()) -> None:
        """Opens `model`; `all_values` are outputs beside its own.

        Raises:
            InputError: if ONNX Runtime refuses the model.
        """
        onnxruntime = load_library()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if all_values:  # a value that an optimiser fuses away cannot be read
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = to_bytes(model)
            add_external_weights(options, content.external)
            blob = _with_outputs(content.graph, all_values) if all_values else content.graph
            self._session = onnxruntime.InferenceSession(
                blob, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception class for each status
            raise InputError(f"ONNX Runtime refuses the model: {first_line(error)}") from None
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pixels: AnyArray) -> dict[str, AnyArray]:
        """Every output by its name.

        Raises:
            InputError: if the model fails.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, {self._input: pixels})
        except Exception as error:  # as above
            raise InputError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None
        return dict(zip(names, values, strict=True))


def _with_outputs(graph: bytes, all_values: Sequence[ir.Value]) -> bytes:
    proto = onnx.ModelProto.FromString(graph)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=v.name) for v in all_values if v.name not in known
    )
    return bytes(proto.SerializeToString())


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


def propagate(
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
