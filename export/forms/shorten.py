"""A graph with fewer of its equal blocks: builders compile all of them alike."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.collapse.places import BRANCH, find_places

_FIRST, _LAST = 4, 2
"""Branches that stay at either end: two blocks, and the last one, which may be another."""


def shorten(model: ir.Model, fp32: ir.Model) -> ir.Model:
    """A copy of `model` without the blocks between the second and the last; `model` itself where
    the stream before and after them differs in shape or type.

    Args:
        model: A lowering of `fp32`, whose tensors have its names.
        fp32: The optimised fp32 graph.
    """
    branches = [place.name for place in find_places(fp32.graph) if place.kind == BRANCH]
    if len(branches) <= _FIRST + _LAST:
        return model
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    before, after = (values.get(name) for name in (branches[_FIRST - 1], branches[-_LAST - 1]))
    if before is None or after is None:
        return model
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return model
    after.replace_all_uses_with(before)
    RemoveUnusedNodesPass()(copy)
    return copy
