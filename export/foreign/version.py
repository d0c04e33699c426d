"""Brings a file of any opset to the one that our own exporter writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from vit_edge.export.graph_edit import add_initializer
from vit_edge.export.onnx_export import OPSET
from vit_edge.runtime.errors import InputError, first_line

from .attention import reshape
from .edit import free_name, insert, rewire, sizes
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
    """Attention that masks nothing, without cache or soft cap, as MatMul, Softmax, MatMul.

    Source: ONNX Attention-23; its inputs are `[B, heads, N, size]` or `[B, N, heads size]`.
    """
    cached = any(value is not None for value in node.inputs[4:])
    causal, capped = (node.attributes.get(name) for name in ("is_causal", "softcap"))
    if _masks(node) or cached or (causal and causal.value) or (capped and capped.value):
        raise InputError("Attention with a mask, a cache or a soft cap is not what a ViT has")
    q, k, v = (_split_heads(node, i) for i in range(3))
    shape, keys = sizes(q), sizes(k)
    if shape[1] != keys[1]:
        raise InputError("Attention with fewer heads for keys than for queries is not supported")
    transposed = insert(node, "Transpose", [k], [*keys[:2], keys[3], keys[2]], {"perm": _SWAP})
    square = (*shape[:3], keys[2])
    scores = insert(node, "MatMul", [_scaled(node, q), transposed], square)
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


def _masks(node: ir.Node) -> bool:
    """True if the mask leaves anything out; exporters write one that does not."""
    value = node.inputs[3] if len(node.inputs) > 3 else None
    data = constant(value)
    if data is None:
        return value is not None
    return not bool(data.all() if data.dtype == np.bool_ else (data == 0).all())


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
