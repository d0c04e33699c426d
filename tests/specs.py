"""Short ways to describe engines of one output, and to compare its values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vit_edge.export.accuracy import Reference
from vit_edge.runtime.manifest import FEATURES, EngineSpec
from vit_edge.runtime.outputs import (
    EMBEDDING,
    LOGITS,
    Metrics,
    OutputSpec,
    compare_output,
    spread,
)


def vector(name: str, size: int, scale: float | None = None) -> OutputSpec:
    """One vector for an image: logits, or features where it has that name."""
    return OutputSpec(name, EMBEDDING if name == FEATURES else LOGITS, (size,), scale)


def engine_spec(
    images: str, output: str, shape: tuple[int, ...], size: int, batch: tuple[int, ...]
) -> EngineSpec:
    return EngineSpec(images, (vector(output, size),), shape, batch)


def compare_logits(
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    population: NDArray[np.float32] | None = None,
) -> Metrics:
    scale = spread(reference if population is None else population)
    return compare_output(logits, reference, vector("logits", logits.shape[1]), labels, scale)


def reference_of(logits: NDArray[np.float32], labels: NDArray[np.int64] | None = None) -> Reference:
    output = vector("logits", logits.shape[1], spread(logits))
    return Reference(logits, (output,), labels, np.arange(len(logits)))
