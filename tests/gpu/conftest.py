"""Fixtures for tests on a real GPU; where there is none they skip with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.engine import Engine

GPU_BACKENDS = [name for name, backend in BACKENDS.items() if backend.graph == "gpu"]


@pytest.fixture(params=GPU_BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that runs here, and builds its engines here."""
    backend = BACKENDS[request.param]
    problem = backend.run_problem() or backend.build_problem()
    if problem:
        pytest.skip(problem)
    return str(request.param)


@pytest.fixture
def engine(gpu_backend: str, bundle_source: Path) -> Iterator[Engine]:
    """fp32, whose answers do not depend on the batch size."""
    with Engine.load(bundle_source, "fp32", gpu_backend) as loaded:
        yield loaded
