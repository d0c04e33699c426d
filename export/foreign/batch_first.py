"""Puts the batch first where Linears ran on `[N, B, K]`, as PyTorch's own attention module does."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import reshape_reshape_rule, transpose_transpose_rule

from vit_edge.export.passes.linears import Linear, find_linears

from .edit import insert, rewire, sizes
from .no_ops import RemoveNoOps

_SWAP = {"perm": [1, 0, 2]}


class MoveSwapsBehindLinears(ir.passes.InPlacePass):
    """`swap tokens and batch -> Linear` becomes `Linear -> swap`: a Linear works on each row alone.

    The swap then meets the one that undoes it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        moved = [_move(linear) for linear in find_linears(model.graph)]
        return ir.passes.PassResult(model, modified=any(moved))


def _move(linear: Linear) -> bool:
    swap = linear.activation.producer()
    if swap is None or swap.op_type != "Transpose":
        return False
    source = swap.inputs[0]
    if source is None or list(swap.attributes.get_ints("perm", ())) != _SWAP["perm"]:
        return False
    end = linear.output.producer()
    assert end is not None
    n, b, width = sizes(linear.output)
    result = insert(end, "MatMul", [source, linear.weight], (b, n, width))
    if linear.bias is not None:
        result = insert(end, "Add", [result, linear.bias], (b, n, width))
    rewire(linear.output, insert(end, "Transpose", [result], (n, b, width), _SWAP))
    return True


_MERGE = (
    common.RemoveUnusedNodesPass(),
    RewritePass([reshape_reshape_rule, transpose_transpose_rule]),
    RemoveNoOps(),
)
PUT_BATCH_FIRST = ir.passes.Sequential(
    MoveSwapsBehindLinears(), *_MERGE, *_MERGE, common.RemoveUnusedNodesPass()
)
"""Twice: two swaps may meet only when the Reshapes between them are gone."""
