"""Kernels of an ONNX Runtime session on the CPU, by its own profiler.

Source: ONNX Runtime, `SessionOptions.enable_profiling`: a file of trace events, one named
`..._kernel_time` for each node that ran, in microseconds; names of operators as its optimiser makes
them (ContribOperators.md).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.base import no_scratch
from ...backends.onnxruntime import CPU, OnnxRuntime, open_graph, session_options
from ...deployment import Blob
from ...errors import BackendError, EngineError, engine_error, first_line
from ...manifest import EngineSpec
from .kernels import CASTS, ELEMENTWISE, MOVES, OTHER, Kernel, product_kind, quiet_means

SOURCE = "ONNX Runtime's profiler"
_WARM_UP, _LEAST, _MOST = 2, 8, 100
_SUFFIX = "_kernel_time"
_INTEGER = (
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
    "QLinearConv", "ConvInteger",
)  # fmt: skip
_FLOAT = (
    "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "NhwcFusedConv",
)  # fmt: skip
_BITS = {"float": 32, "double": 64, "float16": 16, "bfloat16": 16}
_KINDS = {
    CASTS: ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"),
    MOVES: (
        "Transpose", "Reshape", "Split", "Concat", "Slice", "Gather", "GatherElements", "GatherND",
        "Expand", "ReorderInput", "ReorderOutput", "Squeeze", "Unsqueeze", "Identity", "Flatten",
        "Pad", "Tile", "Shape", "ConstantOfShape", "DepthToSpace", "SpaceToDepth", "ScatterND",
        "ScatterElements",
    ),
    ELEMENTWISE: (
        "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Erf",
        "Tanh", "Sigmoid", "Relu", "Clip", "Min", "Max", "Sum", "Mean", "Where", "Greater", "Less",
        "Equal", "Sin", "Cos", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2", "Softmax",
        "BiasSoftmax", "LayerNormalization", "SkipLayerNormalization",
        "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization", "Gelu",
        "BiasGelu", "FastGelu", "QuickGelu", "HardSigmoid", "HardSwish", "Attention",
        "MultiHeadAttention", "QAttention", "RotaryEmbedding", "GlobalAveragePool", "AveragePool",
        "MaxPool", "TopK", "ArgMax", "Resize", "QLinearAdd", "QLinearMul", "QLinearSoftmax",
    ),
}  # fmt: skip
_BY_OPERATOR = {name: kind for kind, names in _KINDS.items() for name in names}


def profile(
    backend: OnnxRuntime, blob: Blob, spec: EngineSpec, threads: int | None, seconds: float
) -> list[Kernel]:
    """Runs images in a session of its own, for so long.

    Raises:
        BackendError, EngineError: if ONNX Runtime refuses the graph, or fails.
        ResourceError: if its file cannot be written.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="vit-edge-")
    except OSError as error:
        raise no_scratch(error) from None
    with folder as path:
        settings = backend.settings
        options = session_options(blob.external, threads or settings.threads or None)
        settings.apply(options)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(path) / "profile")
        images = np.zeros((spec.batch[0], *spec.image_shape), np.uint8)
        try:
            session = open_graph(blob.data, options, CPU)
            calls, end = 0, time.perf_counter() + seconds
            while calls < _WARM_UP + _LEAST or (time.perf_counter() < end and calls < _MOST):
                session.run(list(spec.output_names), {spec.input_name: images})
                calls += 1
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except OSError as error:
            raise no_scratch(error) from None
        except BackendError:  # what is missing is no fault of the graph
            raise
        except Exception as error:  # its exception types are private, and differ between releases
            raise engine_error(f"ONNX Runtime's profiler failed: {first_line(error)}") from None
    return read_events(events)


def read_events(events: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    """The kernels of a call, from the events of several.

    What it takes to write an event is in the event's own time: several microseconds, the time of
    the cheapest node, which does next to nothing.

    Raises:
        EngineError: if there are none of two calls at least.
    """
    series: dict[tuple[str, str], list[float]] = {}
    kinds: dict[tuple[str, str], str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            arguments = event["args"]
            key = str(arguments.get("node_index")), name.removesuffix(_SUFFIX)
            series.setdefault(key, []).append(float(event["dur"]))
            kinds[key] = kind_of(arguments)
    calls = min(map(len, series.values()), default=0) - _WARM_UP
    if calls < 1:
        raise EngineError("ONNX Runtime's profiler wrote no kernels of a call")
    times = np.array([durations[-calls:] for durations in series.values()], np.float64).T
    means = quiet_means(times.tolist())
    least = min(means)
    return [
        Kernel(name, kinds[index, name], mean - least)
        for (index, name), mean in zip(series, means, strict=True)
    ]


def kind_of(arguments: Mapping[str, Any]) -> str:
    """The kind of a node, by what its event says of it."""
    operator = str(arguments.get("op_name", ""))
    if operator in _INTEGER:
        return product_kind(8)
    if operator == "MatMulNBits":
        return product_kind(32)  # which widens its weights
    if operator not in _FLOAT:
        return _BY_OPERATOR.get(operator, OTHER)
    types = [kind for one in arguments.get("input_type_shape", ()) for kind in one]
    if operator in ("MatMul", "FusedMatMul") and len(types) > 1 and _reads_no_weights(arguments):
        return ELEMENTWISE  # of attention
    return product_kind(_BITS.get(types[0], 32) if types else 32)


def _reads_no_weights(arguments: Mapping[str, Any]) -> bool:
    """Tells that both operands are activations: weights that were packed ahead are not listed."""
    return str(arguments.get("parameter_size", "")) == "0"
