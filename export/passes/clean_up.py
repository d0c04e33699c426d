"""Removes what does nothing, and every trace of the machine that exported."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

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
