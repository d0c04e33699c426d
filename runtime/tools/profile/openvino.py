"""Kernels of an OpenVINO model, by its performance counters.

Source: OpenVINO Python API (`InferRequest.get_profiling_info`, property `PERF_COUNT`); names of
node types and implementations as OpenVINO 2026.4 reports them on x86.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...backends.openvino import OpenVino
from ...deployment import Blob
from ...manifest import EngineSpec
from .kernels import CASTS, ELEMENTWISE, MOVES, OTHER, Kernel, product_kind

SOURCE = "OpenVINO's performance counters"
_WARM_UP, _LEAST = 3, 8
_CUT = 0.5
"""Microseconds that a counter is short of on average."""
_TYPE = re.compile(r"_(?:(?:b|f|fp|i|u)(4|8|16|32|64)|bf(16))$", re.IGNORECASE)
_LINEARS = ("FullyConnected", "Convolution", "GroupConvolution", "Deconvolution", "LLMMLP", "QKV")
_KINDS = {
    CASTS: ("FakeQuantize", "Convert", "Quantize"),
    MOVES: (
        "Transpose", "Reorder", "Reshape", "Split", "VariadicSplit", "Concat", "Slice",
        "StridedSlice", "Gather", "Tile", "Broadcast", "Pad", "Squeeze", "Unsqueeze", "MemoryInput",
        "ShapeOf", "DepthToSpace", "SpaceToDepth", "Roll", "ScatterUpdate", "Input", "Output",
        "Parameter", "Result",
    ),
    ELEMENTWISE: (
        "Subgraph", "MatMul", "MVN", "Softmax", "SoftMax", "Gelu", "Eltwise", "Math", "Add",
        "Multiply", "Subtract", "Divide", "Power", "Sqrt", "Erf", "Exp", "Tanh", "Sigmoid", "Swish",
        "Relu", "Clamp", "Maximum", "Minimum", "Select", "Reduce", "RMS", "NormalizeL2", "RoPE",
        "ScaledDotProductAttention", "MHA", "Pooling", "AvgPool", "MaxPool", "TopK", "Interpolate",
    ),
}  # fmt: skip
_BY_TYPE = {name: kind for kind, names in _KINDS.items() for name in names}


def profile(
    backend: OpenVino, blob: Blob, spec: EngineSpec, threads: int | None, seconds: float
) -> list[Kernel]:
    """Runs images in a session of its own, one call at a time, for so long.

    Raises:
        BackendError, EngineError: if OpenVINO refuses the graph, or fails.
    """
    counted = replace(backend, properties=(*backend.properties, ("PERF_COUNT", True)))
    session = counted.open(blob.data, spec, blob.external, None, threads)
    images = np.zeros((spec.batch[0], *spec.image_shape), np.uint8)
    try:
        session.run(images)
        first = session.counters()
        for _ in range(_WARM_UP - 1):
            session.run(images)
        warm, calls = session.counters(), _WARM_UP
        end = time.perf_counter() + seconds
        while calls < _WARM_UP + _LEAST or time.perf_counter() < end:
            session.run(images)
            calls += 1
        return read_counters(first, warm, session.counters(), calls)
    finally:
        session.close()


def read_counters(
    first: Sequence[Any], warm: Sequence[Any], last: Sequence[Any], calls: int
) -> list[Kernel]:
    """The kernels that ran, from the counters after the first call, after those that warm up, and
    after all `calls`.

    A counter is the mean of all calls since the model was compiled, cut to whole microseconds; the
    first call, in which OpenVINO makes its kernels, takes a thousand times as long as the others.
    Of small models many a kernel takes less than a microsecond: what ran is known by the first.
    """
    later = calls - _WARM_UP
    return [
        Kernel(
            a.node_name,
            kind_of(a.node_type, a.exec_type),
            max((calls * (_us(c) + _CUT) - _WARM_UP * (_us(b) + _CUT)) / later, 0.0),
        )
        for a, b, c in zip(first, warm, last, strict=True)
        if a.status == a.Status.EXECUTED
    ]


def _us(counter: Any) -> float:
    return 1e6 * float(counter.real_time.total_seconds())


def kind_of(node: str, implementation: str) -> str:
    """The kind of a node, by its type and its implementation, as "brgemm_avx512_i8"."""
    if node.startswith(_LINEARS):
        match = _TYPE.search(implementation)
        return product_kind(int(match[1] or match[2])) if match else OTHER
    if node.startswith("Reduce"):
        return ELEMENTWISE
    return _BY_TYPE.get(node, OTHER)
