"""Runs a graph over images in ONNX Runtime, as it is or with its 16-bit numerics simulated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.onnx_file import read_onnx, to_bytes
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.errors import BackendError, EngineError, first_line
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.metrics import TimingBudget, measure_latency
from vit_edge.runtime.outputs import pack
from vit_edge.runtime.tools.images import ImageSet

from .progress import Update
from .simulate import in_standard_operators, simulate, sixteen_bit_types

BATCH = 4
BACKEND = "onnxruntime"
AS_IT_IS, SIMULATED = "as it is", "simulated"


def iter_outputs(model: ir.Model, images: ImageSet, batch: int = BATCH) -> Iterator[list[Any]]:
    """Yields the graph's outputs for each batch, those of NVFP4 by standard operators.

    Raises:
        EngineError: if the graph is no valid one.
    """
    name = model.graph.inputs[0].name
    try:
        content = to_bytes(in_standard_operators(model))
        session = open_inference(content.graph, content.external)
        del content
        for frames in images.batches(batch):
            yield session.run(None, {name: frames})
    except BackendError:  # what is missing is no fault of the graph
        raise
    except Exception as error:  # its exception types are private, and differ between releases
        raise EngineError(first_line(error)) from None


def predict(model: ir.Model, images: ImageSet) -> NDArray[np.float32]:
    """The outputs of all images side by side, `[N, width]`. Raises EngineError as `iter_outputs`
    does.
    """
    return np.concatenate([pack(outputs) for outputs in iter_outputs(model, images)])


@dataclass(frozen=True)
class MeasuredOutputs:
    """Packed outputs float32 `[N, width]`, and what computed them."""

    values: NDArray[np.float32]
    measured_on: str


def how_to_measure(model: ir.Model) -> str:
    """Returns `SIMULATED` for a graph with 16-bit tensors, as GPUs compute them.

    A CPU, which computes much of them in 32 bits, is no further from the reference.
    """
    return SIMULATED if sixteen_bit_types(model) else AS_IT_IS


def measure_outputs(path: Path, how: str, images: ImageSet, update: Update) -> MeasuredOutputs:
    """Outputs of the ONNX file at `path` for every image; `how` is `AS_IT_IS` or `SIMULATED`."""
    backend, model = BACKENDS[BACKEND], ir.load(path)
    measured_on = f"ONNX Runtime {backend.version()}, {backend.device()}"
    if how == SIMULATED:
        measured_on += ", 16-bit numerics simulated"
        model = simulate(model)
    parts: list[NDArray[np.float32]] = []
    for outputs in iter_outputs(model, images):
        parts.append(pack(outputs))
        update(min(len(parts) * BATCH, len(images)), len(images))
    return MeasuredOutputs(np.concatenate(parts), measured_on)


@dataclass(frozen=True)
class LatencyHere:
    """Median in milliseconds at batch 1, and the backend that it was measured on."""

    p50_ms: float
    backend: str


def measure_here(
    precision: str, path: Path, spec: EngineSpec, images: ImageSet, timing: TimingBudget
) -> LatencyHere | None:
    """Latency of the ONNX file on the fastest engine for CPUs on this machine; None without any.

    Enough to tell what is fast: `vit-edge compare` measures for decisions.
    """
    onnx, image = read_onnx(path), next(images.batches(1))
    latencies = []
    for backend in BACKENDS.values():
        if backend.graph != "cpu" or precision in backend.lacks or backend.run_problem():
            continue
        with closing(backend.open(onnx.graph, spec, onnx.external)) as session:
            latency = measure_latency(lambda run=session.run: run(image), timing)  # type: ignore[misc]
        latencies.append(LatencyHere(latency.p50_ms, backend.name))
    return min(latencies, key=lambda latency: latency.p50_ms, default=None)
