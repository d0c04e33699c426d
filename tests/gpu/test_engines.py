"""The same on a real GPU: `make test-gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.tools.compare.run import compare_bundle

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engine_agrees_with_pytorch_on_this_gpu(
    bundle_source: Path, gpu_backend: str, precision: str
) -> None:
    golden = Bundle.open(bundle_source).golden()
    with Engine.load(bundle_source, precision, gpu_backend) as engine:  # checks the golden samples
        scores = engine(golden.images)
        assert (scores.argmax(axis=1) == golden.logits.argmax(axis=1)).mean() >= 0.98
        for size in (1, 2, 4, 7):
            np.testing.assert_allclose(engine(golden.images[:size]), scores[:size], atol=0.1)


def test_the_devices_time_is_part_of_the_calls(bundle_source: Path, gpu_backend: str) -> None:
    if not gpu_backend.startswith("tensorrt"):
        pytest.skip("tells no device time")
    found = compare_bundle(Bundle.open(bundle_source), (1, 4), 0.5, ("fp16",), (gpu_backend,))
    for row in found.rows:
        assert row.device_ms is not None
        assert row.p50_ms is not None
        assert 0 < row.device_ms < 1.2 * row.p50_ms
