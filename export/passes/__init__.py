"""The passes that optimise the fp32 graph, in order.

Each is exact: precision is changed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from .class_token import KeepOnlyClassToken
from .linears import FoldAttentionScale, FoldLayerScale
from .names import NameAfterModules


@dataclass(frozen=True)
class PassReport:
    """Number of nodes before and after a pass; why it was left out, "" if it was not."""

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
"""Removes what does nothing, and every trace of the machine that exported."""

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
