"""Writes Linears as MatMul by `[K, N]` and Add, on the tokens' own `[B, N, K]`, and finds out which
module each node comes from, so that `NameAfterModules` can say it.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, array, free_name, insert, rewire, sizes
from vit_edge.export.passes import SCOPES
from vit_edge.export.passes.linears import find_linears

from .evaluate import constant


class UnfoldLinears(ir.passes.InPlacePass):
    """`Reshape to [B N, K] -> Gemm or MatMul, Add -> Reshape back`: the product keeps `[B, N, K]`.

    A product with one row is the head's, and becomes a Gemm.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        done = [_unfold(model.graph, node) for node in list(model.graph)]
        return ir.passes.PassResult(model, modified=any(done))


def _unfold(graph: ir.Graph, node: ir.Node) -> bool:
    rows = sizes(node.inputs[0]) if node.op_type in ("Gemm", "MatMul") else ()
    weight = _weight(node) if len(rows) == 2 else None
    if weight is None:
        return False
    end, bias = _end(node)
    if rows[0] == 1:
        return _write_head(node, end, bias)
    shape = _unfolded_shape(node.inputs[0], end)
    if shape is None:
        return False
    k, n = weight.shape
    value = _reshape(end, node.inputs[0], (*shape, k))
    kernel = node.inputs[1]
    if kernel is None or not np.array_equal(array(kernel), weight):
        kernel = add_initializer(graph, free_name(graph, "weight"), weight)
    product = insert(end, "MatMul", [value, kernel], (*shape, n))
    if bias is not None:
        product = insert(end, "Add", [product, bias], (*shape, n))
    rewire(end.outputs[0], _reshape(end, product, (rows[0], n)))
    return True


def _write_head(node: ir.Node, end: ir.Node, bias: ir.Value | None) -> bool:
    """`MatMul, Add` on one row as the one Gemm that our own exporter writes."""
    if node.op_type == "Gemm":
        return False
    inputs = [*node.inputs, *([bias] if bias is not None else [])]
    rewire(end.outputs[0], insert(end, "Gemm", inputs, sizes(end.outputs[0])))
    return True


def _weight(node: ir.Node) -> np.ndarray | None:
    """The constant `[K, N]`, if the node is a plain product with one."""
    data = constant(node.inputs[1])
    if data is None or data.ndim != 2:
        return None
    attributes = node.attributes
    if attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0:
        return None
    if attributes.get_int("transA", 0):
        return None
    transposed = data.T if attributes.get_int("transB", 0) else data
    return np.ascontiguousarray(transposed, dtype=np.float32)


def _end(node: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """The last node of the Linear, and its bias."""
    if node.op_type == "Gemm":
        return node, node.inputs[2] if len(node.inputs) > 2 else None
    consumers = list(node.outputs[0].consumers())
    if len(consumers) == 1 and consumers[0].op_type == "Add":
        others = [v for v in consumers[0].inputs if v is not node.outputs[0]]
        if len(others) == 1 and constant(others[0]) is not None and len(sizes(others[0])) == 1:
            return consumers[0], others[0]
    return node, None


def _unfolded_shape(value: ir.Value | None, end: ir.Node) -> tuple[int, int] | None:
    """The two leading sizes that the rows had before, or will have after."""
    before = value.producer() if value is not None else None
    if before is not None and before.op_type == "Reshape":
        shape = sizes(before.inputs[0])
        if len(shape) == 3 and shape[-1] == sizes(value)[-1]:
            return shape[0], shape[1]
    for after in end.outputs[0].consumers():
        shape = sizes(after.outputs[0])
        columns = sizes(end.outputs[0])[-1]
        if after.op_type == "Reshape" and len(shape) == 3 and shape[-1] == columns:
            return shape[0], shape[1]
    return None


def _reshape(before: ir.Node, value: ir.Value | None, shape: tuple[int, ...]) -> ir.Value:
    """`value` in that shape, past the Reshape that made it where there is one."""
    assert value is not None
    producer = value.producer()
    if producer is not None and producer.op_type == "Reshape":
        source = producer.inputs[0]
        if source is not None and sizes(source) == shape:
            return source
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    target = add_initializer(graph, free_name(graph, "shape"), np.array(shape, dtype=np.int64))
    return insert(before, "Reshape", [value, target], shape)


_MACHINE_MADE = re.compile(r"(onnx::|val_|vit_edge:|/|\d+$|.*@constant$)")


class FindModules(ir.passes.InPlacePass):
    """PyTorch's older exporter puts the module into the node's name, `/blocks.0/attn/qkv/MatMul`;
    elsewhere a weight's or bias's own name tells it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in model.graph:
            if SCOPES not in node.metadata_props:
                scope = _from_path(str(node.name)) or _from_weights(node)
                if scope:
                    node.metadata_props[SCOPES] = repr(["", scope, node.op_type])
        return ir.passes.PassResult(model, modified=True)


def _from_path(name: str) -> str:
    """`/blocks/blocks.0/attn/qkv/MatMul` is of `blocks.0.attn.qkv`."""
    parts = name.split("/")[1:-1] if name.startswith("/") else []
    kept = [
        part
        for part, after in zip(parts, [*parts, ""][1:], strict=True)
        if not after.startswith(f"{part}.")
    ]
    return ".".join(kept)


def _from_weights(node: ir.Node) -> str:
    for value in node.inputs:
        name = str(value.name) if value is not None and value.is_initializer() else ""
        if "." in name and not _MACHINE_MADE.match(name):
            return name.rpartition(".")[0]
    return ""


class NameWeights(ir.passes.InPlacePass):
    """A weight without a name of its own, `onnx::MatMul_284`, is named after its Linear."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = set(model.graph.initializers)
        for number, linear in enumerate(find_linears(model.graph)):
            _identify(linear.node, linear.bias, number)
        for node in model.graph:
            scope = _scope(node)
            for value in list(node.inputs):
                if value is not None and value.is_initializer() and scope:
                    _name(value, scope, taken)
        return ir.passes.PassResult(model, modified=True)


def _identify(node: ir.Node, bias: ir.Value | None, number: int) -> None:
    """Every Linear has a module. The bias, which exporters leave its name, knows best."""
    scope, _, kind = str(bias.name).rpartition(".") if bias is not None else ("", "", "")
    if kind != "bias" or _MACHINE_MADE.match(scope):
        if SCOPES in node.metadata_props:
            return
        scope = f"linear_{number}"
    users = [node, *(node.outputs[0].consumers() if bias is not None else ())]
    for user in users:
        user.metadata_props[SCOPES] = repr(["", scope, user.op_type])


def _scope(node: ir.Node) -> str:
    modules = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))
    return str(modules[-2]) if len(modules) > 1 else ""


def _name(value: ir.Value, scope: str, taken: set[str]) -> None:
    """`scope.weight` for a matrix, `scope.bias` for a vector, unless the name is there already."""
    if not _MACHINE_MADE.match(str(value.name)) or array(value).dtype.kind != "f":
        return
    rank = len(sizes(value))
    name = f"{scope}.{'weight' if rank > 1 else 'bias' if rank else 'scale'}"
    if name not in taken:
        taken.discard(str(value.name))
        taken.add(name)
        value.name = name
