"""Brings a file of any opset to the one that our own exporter writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from vit_edge.export.graph_edit import add_initializer, free_name, insert, rewire, sizes
from vit_edge.export.onnx_export import OPSET
from vit_edge.runtime.errors import InputError, first_line

from .attention import reshape
from .evaluate import constant
from .static_shapes import BATCH_AXIS


def convert(model: ir.Model) -> None:
    """Converts to opset 20, in place. The graph must be frozen.

    Raises:
        InputError: if an operator cannot be expressed in it.
    """
    version = model.opset_imports.get("", 0)
    axes = {name: v.meta[BATCH_AXIS] for name, v in _values(model.graph) if BATCH_AXIS in v.meta}
    if version > OPSET:
        _downgrade_opset(model)
    elif version < OPSET:
        _upgrade_opset(model)
    for name, value in _values(model.graph):  # ONNX's own converter keeps the names alone
        if name in axes:
            value.meta[BATCH_AXIS] = axes[name]
    if model.opset_imports.get("") != OPSET:
        raise InputError(
            f"opset {version} cannot be converted to {OPSET}: export the model with opset {OPSET}"
        )


def _values(graph: ir.Graph) -> Iterator[tuple[str, ir.Value]]:
    yield from graph.initializers.items()
    yield from ((str(value.name), value) for node in graph for value in node.outputs)


def _upgrade_opset(model: ir.Model) -> None:
    """Converts with onnxscript from opset 18 on, with ONNX's own converter before."""
    logger = logging.getLogger("onnxscript.version_converter")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        ConvertVersionPass(OPSET, fallback=True)(model)
    except Exception as error:  # the converters raise whatever their adapters do
        raise InputError(f"opset conversion failed: {first_line(error)}") from None
    finally:
        logger.setLevel(level)


def _downgrade_opset(model: ir.Model) -> None:
    """Drops what newer opsets added: wider types and attributes with defaults, and Attention."""
    for node in list(model.graph):
        if node.op_type == "Attention":
            _decompose(node)
    for node in model.graph:
        try:
            schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        except onnx.defs.SchemaError:
            raise InputError(
                f"operator {node.op_type} is not in opset {OPSET}: export the model with that opset"
            ) from None
        unknown = sorted(set(node.attributes) - set(schema.attributes))
        for name in unknown:
            if not _is_default(node, name, model.opset_imports[""]):
                raise InputError(f"{node.op_type} with {name} is not in opset {OPSET}")
            del node.attributes[name]
    model.graph.opset_imports[""] = OPSET


def _is_default(node: ir.Node, name: str, version: int) -> bool:
    default = onnx.defs.get_schema(node.op_type, version, "").attributes[name].default_value
    return bool(ir.serde.deserialize_attribute(default).value == node.attributes[name].value)


def _decompose(node: ir.Node) -> None:
    """Attention as MatMul, Softmax, MatMul, with what a mask or a relative position adds between.

    Source: ONNX Attention-23; its inputs are `[B, heads, N, size]` or `[B, N, heads size]`.
    """
    cached = any(value is not None for value in node.inputs[4:])
    causal, capped = (node.attributes.get(name) for name in ("is_causal", "softcap"))
    if cached or (causal and causal.value) or (capped and capped.value):
        raise InputError(
            f"{node.name}: Attention with a cache, a causal mask or a soft cap is not what a "
            "vision transformer has: export the model without it"
        )
    q, k, v = (_split_heads(node, i) for i in range(3))
    shape, keys = sizes(q), sizes(k)
    if shape[1] != keys[1]:
        raise InputError(
            f"{node.name}: Attention with fewer heads for keys ({keys[1]}) than for queries "
            f"({shape[1]}) is not supported: export the model with opset {OPSET}"
        )
    transposed = insert(node, "Transpose", [k], [*keys[:2], keys[3], keys[2]], {"perm": _SWAP})
    square = (*shape[:3], keys[2])
    scores = insert(node, "MatMul", [_scaled(node, q), transposed], square)
    added = _added(node)
    if added is not None:
        scores = insert(node, "Add", [scores, added], square)
    weights = insert(node, "Softmax", [scores], square, {"axis": -1})
    result = insert(node, "MatMul", [weights, v], (*shape[:3], sizes(v)[3]))
    if len(sizes(node.outputs[0])) == 3:
        rows = [shape[0], shape[2], shape[1], sizes(v)[3]]
        result = insert(node, "Transpose", [result], rows, {"perm": [0, 2, 1, 3]})
        result = reshape(node, result, sizes(node.outputs[0]))
    rewire(node.outputs[0], result)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)


def _added(node: ir.Node) -> ir.Value | None:
    """The term that the mask adds to the scores; None for one that leaves nothing out, as exporters
    write it.
    """
    value = node.inputs[3] if len(node.inputs) > 3 else None
    data, graph = constant(value), node.graph
    assert isinstance(graph, ir.Graph)
    if value is None:
        return None
    if value.dtype != ir.DataType.BOOL:
        return None if data is not None and bool((data == 0).all()) else value
    if data is not None and bool(data.all()):
        return None
    numbers = (np.array(number, np.float32) for number in (0.0, _NEVER))
    kept, left_out = (add_initializer(graph, free_name(graph, "mask"), n) for n in numbers)
    if data is None:
        return insert(node, "Where", [value, kept, left_out], sizes(value))
    mask = np.where(data, np.float32(0), np.float32(_NEVER))
    added = add_initializer(graph, free_name(graph, "mask"), mask)
    if BATCH_AXIS in value.meta:
        added.meta[BATCH_AXIS] = value.meta[BATCH_AXIS]
    return added


def _split_heads(node: ir.Node, index: int) -> ir.Value:
    """Input `index` as `[B, heads, N, size]`."""
    value = node.inputs[index]
    assert value is not None
    shape = sizes(value)
    if len(shape) == 4:
        return value
    heads = node.attributes.get_int("kv_num_heads" if index else "q_num_heads", 1)
    size = shape[2] // heads
    rows = reshape(node, value, (shape[0], shape[1], heads, size))
    order = {"perm": [0, 2, 1, 3]}
    return insert(node, "Transpose", [rows], (shape[0], heads, shape[1], size), order)


def _scaled(node: ir.Node, queries: ir.Value) -> ir.Value:
    graph, size = node.graph, sizes(queries)[-1]
    assert isinstance(graph, ir.Graph)
    factor = node.attributes.get_float("scale", 0.0) or float(size) ** -0.5
    number = np.array(factor, dtype=np.float32)
    scale = add_initializer(graph, free_name(graph, "scale"), number)
    return insert(node, "Mul", [queries, scale], sizes(queries))


_SWAP = [0, 1, 3, 2]
_NEVER = -1e4
"""A score that no token has, and that 16 bits hold."""
