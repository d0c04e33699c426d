"""Runs a graph over images with ONNX Runtime, as it is or with its 16-bit numerics simulated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.onnx_file import read_onnx
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.metrics import QUICK, measure_latency
from vit_edge.runtime.tools.images import ImageSet

from .progress import Update
from .running import BATCH, outputs
from .simulate import simulate, sixteen_bit_types

BACKEND = "onnxruntime"
AS_IT_IS, SIMULATED = "as it is", "simulated"


@dataclass(frozen=True)
class MeasuredLogits:
    """float32 `[N, outputs]`, and what computed them."""

    logits: NDArray[np.float32]
    measured_on: str


def how_to_measure(model: ir.Model) -> str:
    """What a GPU makes of 16-bit tensors has to be simulated. A CPU, which computes much of them in
    32 bits, is no further from the reference.
    """
    return SIMULATED if sixteen_bit_types(model) else AS_IT_IS


def measure_logits(path: Path, how: str, images: ImageSet, update: Update) -> MeasuredLogits:
    """Logits of the ONNX file at `path` for every image; `how` is `AS_IT_IS` or `SIMULATED`."""
    backend, model = BACKENDS[BACKEND], ir.load(path)
    measured_on = f"ONNX Runtime {backend.version()}, {backend.device()}"
    if how == SIMULATED:
        measured_on += ", 16-bit numerics simulated"
        model = simulate(model)
    parts: list[NDArray[np.float32]] = []
    for logits, *_ in outputs(model, images):
        parts.append(logits)
        update(min(len(parts) * BATCH, len(images)), len(images))
    return MeasuredLogits(np.concatenate(parts), measured_on)


@dataclass(frozen=True)
class LatencyHere:
    """Median in milliseconds at batch 1, and the backend that it was measured on."""

    p50_ms: float
    backend: str


def measure_here(
    precision: str, path: Path, spec: EngineSpec, images: ImageSet
) -> LatencyHere | None:
    """Latency of the ONNX file on the fastest engine for CPUs on this machine; None without any.

    Enough to tell what is fast: `vit-edge compare` measures for decisions.
    """
    onnx, image = read_onnx(path), next(images.batches(1))
    found = []
    for backend in BACKENDS.values():
        if backend.graph != "cpu" or precision in backend.lacks or backend.run_problem():
            continue
        session = backend.open(onnx.graph, spec, onnx.external)
        latency = measure_latency(lambda run=session.run: run(image), QUICK)  # type: ignore[misc]
        session.close()
        found.append(LatencyHere(latency.p50_ms, backend.name))
    return min(found, key=lambda latency: latency.p50_ms, default=None)
