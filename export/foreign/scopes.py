"""Finds out which module a foreign node comes from, so that `NameAfterModules` can say it."""

from __future__ import annotations

import re

import onnx_ir as ir

from vit_edge.export.graph_edit import array
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.passes.names import SCOPES

from .edit import sizes

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
