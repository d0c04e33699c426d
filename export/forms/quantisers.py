"""Place of the quantiser of attention's output: before or after its heads are laid out as
channels.
"""

from __future__ import annotations

import onnx_ir as ir

_LAYOUT = ("Transpose", "Reshape")


def quantise_before_layout(model: ir.Model) -> bool:
    """Moves each Q/DQ pair of one scale before the Transpose and Reshape that lead to it."""
    moved = [_move(model.graph, node) for node in model.graph if node.op_type == "QuantizeLinear"]
    return any(moved)


def _move(graph: ir.Graph, quantise: ir.Node) -> bool:
    end, users = quantise.inputs[0], list(quantise.outputs[0].consumers())
    start = _before_layout(end)
    scale = quantise.inputs[1]
    of_one_scale = scale is not None and scale.shape is not None and len(scale.shape) == 0
    one_pair = len(users) == 1 and users[0].op_type == "DequantizeLinear"
    if end is None or start is end or start is None or not one_pair or not of_one_scale:
        return False
    if len(list(end.consumers())) != 1 or end.is_graph_output():
        return False
    (dequantise,) = users
    dequantise.outputs[0].replace_all_uses_with(end)
    start.replace_all_uses_with(dequantise.outputs[0])
    quantise.replace_input_with(0, start)
    for node in (quantise, dequantise):
        node.outputs[0].shape = start.shape
    graph.remove((quantise, dequantise))
    producer = start.producer()
    assert producer is not None
    graph.insert_after(producer, (quantise, dequantise))
    return True


def _before_layout(value: ir.Value | None) -> ir.Value | None:
    """The product whose result is laid out as `value`, which nothing else reads."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _LAYOUT:
        value = node.inputs[0]
        if value is None or len(list(value.consumers())) != 1:
            return None
    node = value.producer() if value is not None else None
    return value if node is not None and node.op_type == "MatMul" else None
