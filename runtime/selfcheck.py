"""Is an engine still right on this device? Golden samples answer it without PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import SelfCheckError
from .golden import GoldenSamples
from .manifest import Graph
from .metrics import Metrics, measure

SAMPLES_AT_LOAD = 8
"""How many golden samples the check at an engine's first load on a device takes; `vit-edge check`
takes them all.
"""

Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def run_golden(scores: Scores, golden: GoldenSamples) -> Metrics:
    """Measures `scores` (images to logits) on the golden samples."""
    return measure(scores(golden.images), golden.logits, golden.labels)


def first_samples(golden: GoldenSamples, count: int) -> GoldenSamples:
    """The first `count` golden samples."""
    labels = None if golden.labels is None else golden.labels[:count]
    return GoldenSamples(golden.images[:count], golden.logits[:count], labels)


def miss(metrics: Metrics, graph: Graph) -> str | None:
    """What is wrong, or None if the error is within the bundle's tolerance."""
    if metrics.rms_error <= graph.rms_tolerance:
        return None
    return (
        f"logits are {metrics.rms_error:.3g} off (relative RMS), the bundle allows "
        f"{graph.rms_tolerance:.3g}"
    )


def require_golden(scores: Scores, golden: GoldenSamples, graph: Graph, what: str) -> Metrics:
    """Raises SelfCheckError if `scores` misses the tolerance of `graph` on the first samples."""
    few = first_samples(golden, SAMPLES_AT_LOAD)
    metrics = measure(scores(few.images), few.logits, few.labels, population=golden.logits)
    problem = miss(metrics, graph)
    if problem:
        raise SelfCheckError(
            f"{what} failed the golden check: {problem}; do not use it here, run `vit-edge "
            "check` and choose another"
        )
    return metrics
