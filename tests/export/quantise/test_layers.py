from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.export.precision.quantised import Quantised
from vit_edge.export.quantise.layers import apply_fallback, find_layers

from ..graphs import count, quantise, relative_error, run


@pytest.fixture
def quantised(optimised: ir.Model, calibration: Calibration) -> Quantised:
    return quantise("int8_attention", optimised, calibration)


def test_units_are_the_linears_of_an_input_and_the_attentions(quantised: Quantised) -> None:
    layers = find_layers(quantised.exact.graph, quantised.lowered.graph)
    parts = ("attn.qkv", "attn", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = [f"blocks.{b}.{part}" for b in range(2) for part in parts]
    names.remove("blocks.1.attn")  # of a single query
    assert [layer.name for layer in layers] == names
    assert all(layer.cost > 0 for layer in layers)


def test_what_is_not_quantised_is_no_unit(optimised: ir.Model, calibration: Calibration) -> None:
    plain = quantise("int8", optimised, calibration)
    assert len(find_layers(plain.exact.graph, plain.lowered.graph)) == 8


def test_all_raised_is_the_exact_graph(quantised: Quantised, frames: np.ndarray) -> None:
    layers = find_layers(quantised.exact.graph, quantised.lowered.graph)
    apply_fallback(quantised.exact, quantised.lowered, layers, [layer.name for layer in layers])
    assert count(quantised.lowered) == count(quantised.exact)
    names = [[node.name for node in m.graph] for m in (quantised.lowered, quantised.exact)]
    assert sorted(map(str, names[0])) == sorted(map(str, names[1]))
    np.testing.assert_array_equal(run(quantised.lowered, frames), run(quantised.exact, frames))


def test_one_raised_leaves_the_others_quantised(
    quantised: Quantised, optimised: ir.Model, frames: np.ndarray
) -> None:
    layers = find_layers(quantised.exact.graph, quantised.lowered.graph)
    before = count(quantised.lowered)["QuantizeLinear"]
    apply_fallback(quantised.exact, quantised.lowered, layers, ["blocks.1.mlp.fc2"])
    assert count(quantised.lowered)["QuantizeLinear"] == before - 1
    names = {str(node.name) for node in quantised.lowered.graph if node.op_type == "MatMul"}
    assert "blocks.1.mlp.fc2/MatMul" in names
    assert relative_error(run(quantised.lowered, frames), run(optimised, frames)) < 0.1
