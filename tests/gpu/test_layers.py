"""What a real engine inspector tells: `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.backends import BACKENDS
from runtime.backends.tensorrt_types import UNKNOWN
from runtime.bundle import Bundle
from runtime.engine import Engine
from runtime.layers import read_all

# TensorRT lean has no inspector.
INSPECTING = ("tensorrt", "tensorrt-rtx")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("backend", INSPECTING)
def test_products_run_in_what_the_graph_asks(
    bundle_source: Path, backend: str, precision: str
) -> None:
    problem = BACKENDS[backend].run_problem() or BACKENDS[backend].build_problem()
    if problem:
        pytest.skip(problem)
    Engine.load(bundle_source, precision, backend).close()  # builds the engine where there is none
    (layers,) = read_all(Bundle.open(bundle_source), precision, backend).values()
    products = layers.products()
    assert len(products) == 26
    known = [product for product in products if product.runs != UNKNOWN]
    assert len(known) > len(products) / 2, "the inspector's answer is not understood"
    # TensorRT may widen a product where no quantised kernel is faster, and never narrows one.
    if precision != "int8":
        assert {product.runs for product in known} == {precision}
