"""What a builder on a real GPU tells: `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.tools.inspect import read_all
from vit_edge.runtime.tools.plan.types import UNKNOWN

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
    plans = read_all(Bundle.open(bundle_source), precision, backend)
    summary = next(plan for name, plan in plans.items() if name.endswith("here")).summary()
    assert summary.linear_work.get(UNKNOWN, 0) < 0.5, "what the builder tells is not understood"
    if backend == "tensorrt-rtx":
        assert (summary.unmet, summary.dequantised, summary.waits) == ((), (), 0)
    # TensorRT may widen a product where no quantised kernel is faster, and never narrows one.
    if precision != "int8":
        assert set(summary.linear_work) <= {precision, UNKNOWN}
