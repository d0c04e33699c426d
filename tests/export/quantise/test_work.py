"""Multiplications, and the share of them that is quantised."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.quantise.layers import ALL, ATTENTION, CONVOLUTIONS, LINEARS, Work, count_work

WIDTH, HIDDEN, TOKENS, DEPTH, PATCH, CLASSES = 64, 256, 17, 2, 8, 10


def test_work_of_a_vit(optimised: ir.Model) -> None:
    parts = {part.kind: part.total for part in count_work(optimised.graph).parts}
    block = TOKENS * (4 * WIDTH**2 + 2 * WIDTH * HIDDEN)
    last = TOKENS * 3 * WIDTH**2 + WIDTH**2 + 2 * WIDTH * HIDDEN  # but for Q, K and V of one token
    assert parts[LINEARS] == (DEPTH - 1) * block + last + WIDTH * CLASSES
    assert parts[ATTENTION] == 2 * WIDTH * ((DEPTH - 1) * TOKENS**2 + TOKENS)
    assert parts[CONVOLUTIONS] == 16 * WIDTH * 3 * PATCH**2


@pytest.mark.parametrize(
    ("name", "linears", "attention"), [("int8", 0.9, 0.0), ("int8_attention", 0.9, 0.9)]
)
def test_quantised_share(
    optimised: ir.Model, calibration: Calibration, name: str, linears: float, attention: float
) -> None:
    graph = PRECISIONS[name].lower(optimised, calibration)["gpu"]
    work = count_work(graph.graph)
    assert 1 > work.shares[LINEARS] > linears
    assert (work.shares[ATTENTION] > attention) == (attention > 0)
    assert work.shares[CONVOLUTIONS] == 0
    assert 0.5 < work.shares[ALL] == work.share < work.shares[LINEARS] + attention


def test_nothing_quantised_has_no_shares(optimised: ir.Model) -> None:
    assert count_work(optimised.graph).shares == Work().shares == {}


def test_a_grouped_convolution_multiplies_the_channels_of_its_group() -> None:
    kernel = ir.val("kernel", const_value=ir.tensor(np.ones((8, 2, 3, 3), np.float32)))
    images = ir.val("images", ir.DataType.FLOAT, ir.Shape(["batch", 8, 6, 6]))
    node = ir.node("Conv", [images, kernel], {"group": 4})
    node.outputs[0].shape = ir.Shape(["batch", 8, 4, 4])
    graph = ir.Graph([images], node.outputs, nodes=[node], initializers=[kernel])
    (part,) = count_work(graph).parts
    assert part.total == 4 * 4 * 8 * 2 * 9
