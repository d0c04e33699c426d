"""The passes that optimise the fp32 graph, in order.

Each is exact: precision is changed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .attention_scale import FoldAttentionScale
from .class_token import KeepOnlyClassToken
from .clean_up import CLEAN_UP
from .layer_scale import FoldLayerScale
from .names import NameAfterModules


@dataclass(frozen=True)
class PassReport:
    """How many nodes a pass found and left."""

    name: str
    nodes_before: int
    nodes_after: int


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
