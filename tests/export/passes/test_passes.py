from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.export.passes import PASSES, NameAfterModules, optimise
from vit_edge.export.passes.class_token import KeepOnlyClassToken
from vit_edge.export.passes.linears import FoldAttentionScale, find_linears

from ..graphs import count, relative_error, run


@pytest.fixture
def raw(exported: ir.Model) -> ir.Model:
    """A copy to change: serialised, because a clone shares its types."""
    return ir.from_proto(ir.to_proto(exported))


def test_all_passes_together_change_no_logit(
    exported: ir.Model, optimised: ir.Model, frames: np.ndarray
) -> None:
    assert relative_error(run(optimised, frames), run(exported, frames)) < 1e-6


def test_every_pass_reports_its_nodes(raw: ir.Model) -> None:
    reports = optimise(raw)
    assert [report.name for report in reports] == list(PASSES)
    assert all(a.nodes_after == b.nodes_before for a, b in pairwise(reports))
    assert reports[-1].nodes_after == raw.graph.num_nodes()


def test_linears_are_named_after_their_modules(raw: ir.Model) -> None:
    NameAfterModules()(raw)
    names = [linear.name for linear in find_linears(raw.graph)]
    block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert names == [f"blocks.{i}.{part}" for i in range(2) for part in block]
    assert all(linear.bias is not None for linear in find_linears(raw.graph))


def test_attention_scale_moves_into_q(raw: ir.Model, frames: np.ndarray) -> None:
    before = run(raw, frames)
    assert count(raw)["Mul"] == 2
    FoldAttentionScale()(raw)
    assert count(raw)["Mul"] == 0
    assert relative_error(run(raw, frames), before) < 1e-6


def test_attention_scale_stays_where_q_has_another_use(raw: ir.Model, frames: np.ndarray) -> None:
    (first, _) = (node for node in raw.graph if node.op_type == "Mul")
    extra = ir.node("Identity", [first.inputs[0]])
    extra.outputs[0].name = "extra"
    raw.graph.append(extra)
    FoldAttentionScale()(raw)
    assert count(raw)["Mul"] == 1


def test_last_block_computes_the_class_token_only(raw: ir.Model, frames: np.ndarray) -> None:
    before = run(raw, frames)
    NameAfterModules()(raw)
    KeepOnlyClassToken()(raw)
    tokens = {linear.name: linear.output.shape[1] for linear in find_linears(raw.graph)}
    assert tokens["blocks.0.mlp.fc1"] == tokens["blocks.1.attn.qkv"] == 17
    assert tokens["blocks.1.attn.proj"] == tokens["blocks.1.mlp.fc1"] == 1
    assert relative_error(run(raw, frames), before) < 1e-6


def test_class_token_is_not_cut_where_all_tokens_are_read(
    raw: ir.Model, frames: np.ndarray
) -> None:
    """Mean pooling, in place of the class token, reads every token."""
    (gather,) = (node for node in raw.graph if node.op_type == "Gather")
    axes = ir.val("axes", const_value=ir.tensor(np.array([1]), name="axes"))
    raw.graph.register_initializer(axes)
    mean = ir.node("ReduceMean", [gather.inputs[0], axes], {"keepdims": 0})
    raw.graph.insert_before(gather, mean)
    gather.outputs[0].replace_all_uses_with(mean.outputs[0])
    mean.outputs[0].name = "pooled"
    before = run(raw, frames)
    KeepOnlyClassToken()(raw)
    assert count(raw)["Slice"] == 0
    np.testing.assert_array_equal(run(raw, frames), before)


def test_clean_up_leaves_no_trace_of_the_exporting_machine(optimised: ir.Model) -> None:
    text = ir.to_proto(optimised).SerializeToString()
    for trace in (b"/root", b"/home", b".py", b"site-packages", b"stack_trace"):
        assert trace not in text
    assert not any(node.metadata_props or node.doc_string for node in optimised.graph)
