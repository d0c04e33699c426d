"""The passes that optimise the fp32 graph, in order. Each is exact: precision is lowered elsewhere.

The first names nodes, tensors and weights after the modules that they come from, so that tables and
reports are readable.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from .class_token import KeepOnlyClassToken
from .linears import FoldAttentionScale, FoldLayerScale

SCOPES = "pkg.torch.onnx.name_scopes"
WRAPPER = "vit"
"""Attribute of the export wrapper that holds the model; it is removed from names."""
_NO_MODULE = "_empty_nn_module_stack"


class NameAfterModules(ir.passes.InPlacePass):
    """`node_MatMul_13` in `blocks.0.attn.qkv` becomes `blocks.0.attn.qkv/MatMul`, and its output
    likewise.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        seen: Counter[str] = Counter()
        scope = ""
        for node in model.graph:
            scope = _scope(node, before=scope)
            name = f"{scope}/{node.op_type}" if scope else node.op_type
            seen[name] += 1
            node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
            for index, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"
        for value in list(model.graph.initializers.values()):
            _rename_initializer(model.graph, value)
        return ir.passes.PassResult(model, modified=True)


def _scope(node: ir.Node, before: str) -> str:
    """The innermost module that the node comes from, as `blocks.0.attn.qkv`; "" outside all of
    them.

    A node without this metadata, such as a Split that the exporter made, gets the module of the
    node before it.
    """
    modules = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))[
        :-1
    ]  # the last one is the operator itself
    if not modules:
        return before
    innermost = str(modules[-1])
    return (
        ""
        if innermost.startswith(_NO_MODULE)
        else innermost.removeprefix(WRAPPER).removeprefix(".")
    )


def _rename_initializer(graph: ir.Graph, value: ir.Value) -> None:
    name = str(value.name).removeprefix(f"{WRAPPER}.")
    consumers = [use.node for use in value.uses()]
    if (
        name.startswith("val_")
        and len(consumers) == 1
        and consumers[0].op_type in ("MatMul", "Gemm")
    ):
        name = (
            str(consumers[0].name).rpartition("/")[0] + ".weight"
        )  # the exporter transposed and renamed it
    if name != value.name and name not in graph.initializers:
        value.name = name


@dataclass(frozen=True)
class PassReport:
    """Number of nodes before and after a pass, and why it was left out; "" if it was not."""

    name: str
    nodes_before: int
    nodes_after: int
    left_out: str = ""


CLEAN_UP = ir.passes.Sequential(
    common.IdentityEliminationPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.CommonSubexpressionEliminationPass(),
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass(),
    common.TopologicalSortPass(),
    common.ClearMetadataAndDocStringPass(),
)
"""Removes nodes without effect, and all metadata about the exporting machine."""

PASSES: dict[str, ir.passes.PassBase] = {
    "name after modules": NameAfterModules(),
    "fold attention scale": FoldAttentionScale(),
    "fold layer scale": FoldLayerScale(),
    "keep only the class token": KeepOnlyClassToken(),
    "clean up": CLEAN_UP,
}


def optimise(
    model: ir.Model, passes: Mapping[str, ir.passes.PassBase] = PASSES
) -> tuple[PassReport, ...]:
    """Applies every pass to `model` in place."""
    reports = []
    for name, change in passes.items():
        before = model.graph.num_nodes()
        change(model)
        reports.append(PassReport(name, before, model.graph.num_nodes()))
    return tuple(reports)
