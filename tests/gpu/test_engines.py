"""The same road on a real GPU: `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.backends import BACKENDS
from runtime.bundle import Bundle
from runtime.compare.run import compare_bundle
from runtime.engine import Engine

GPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.graph == "gpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_engine_agrees_with_pytorch_on_this_gpu(
    bundle_source: Path, backend: str, precision: str
) -> None:
    problem = BACKENDS[backend].run_problem() or BACKENDS[backend].build_problem()
    if problem:
        pytest.skip(problem)
    golden = Bundle.open(bundle_source).golden()
    with Engine.load(bundle_source, precision, backend) as engine:  # checks the golden samples
        scores = engine(golden.images)
        assert (scores.argmax(axis=1) == golden.logits.argmax(axis=1)).mean() >= 0.98
        for size in (1, 2, 4, 7):
            np.testing.assert_allclose(engine(golden.images[:size]), scores[:size], atol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_the_devices_time_is_part_of_the_calls(bundle_source: Path, backend: str) -> None:
    problem = BACKENDS[backend].run_problem() or BACKENDS[backend].build_problem()
    if problem:
        pytest.skip(problem)
    found = compare_bundle(Bundle.open(bundle_source), (1, 4), 0.5, ("fp16",), (backend,))
    for row in found.rows:
        assert row.device_ms is not None
        assert row.p50_ms is not None
        assert 0 < row.device_ms < 1.2 * row.p50_ms
