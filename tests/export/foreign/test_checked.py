"""Passes that do not fit a model are left out, and what they did is undone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.export.foreign.evaluate import OnnxRunner
from vit_edge.export.foreign.rebuild import optimise_checked
from vit_edge.export.graph_edit import array
from vit_edge.export.passes import CLEAN_UP
from vit_edge.export.passes.linears import find_linears


class _Change(ir.passes.InPlacePass):
    """Changes a weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        weight = find_linears(model.graph)[0].weight
        weight.const_value = ir.tensor(array(weight) * np.float32(self.factor), name=weight.name)
        return ir.passes.PassResult(model, modified=True)


class _Fail(ir.passes.InPlacePass):
    """Stops half-way."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.outputs.clear()
        raise ValueError("no such node")


@pytest.mark.parametrize(
    ("bad", "reason"), [(_Change(1.5), "changes the outputs"), (_Fail(), "no such node")]
)
def test_a_pass_that_does_not_fit_is_left_out(
    optimised: ir.Model, frames: np.ndarray, bad: ir.passes.InPlacePass, reason: str
) -> None:
    model = optimised.clone()
    (expected,) = OnnxRunner(model)(frames).values()
    first, second, third = optimise_checked(
        model, {"fits": _Change(1.0), "does not": bad, "clean up": CLEAN_UP}
    )
    assert (first.left_out, third.left_out) == ("", "")
    assert reason in second.left_out
    (left,) = OnnxRunner(model)(frames).values()
    assert np.abs(left - expected).max() < 1e-5 * np.ptp(expected)
    assert second.nodes_before == second.nodes_after == model.graph.num_nodes()


def test_passes_that_fit_are_applied(optimised: ir.Model) -> None:
    reports = optimise_checked(optimised.clone(), {"fits": _Change(1.0), "clean up": CLEAN_UP})
    assert [report.left_out for report in reports] == ["", ""]
