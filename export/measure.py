"""Runs a graph over images in ONNX Runtime, as it is or with the numerics of GPUs simulated: 16
bits, and NVFP4.

ONNX Runtime on a CPU computes fp16 nodes in fp32, with hidden casts: overflow stays invisible
there. Here each 16-bit tensor becomes an fp32 one that passes through `Cast(16) -> Cast(32)`, so
that it rounds and overflows as it does on a GPU, whose matrix products accumulate in fp32. Operands
of an 8-bit or 4-bit product are not rounded: its kernel multiplies the quantised numbers, and never
computes the dequantised ones.

NVFP4's operators, which only TensorRT has, are rewritten in standard ones. ONNX Runtime then
computes what the format defines, number by number: block scales rounded to E4M3, numbers to E2M1,
both to nearest, ties to even. All of it is float32, which holds these numbers and the products of
two of them exactly.
"""

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

from .graph_edit import add_initializer, array, describe, set_dtype
from .progress import Update
from .quantise.float4 import BLOCK
from .quantise.float4_qdq import DOMAIN, QUANTISER, dequantised_scales, weight_of
from .quantise.grid import FP4_GRID, FP8_GRID

SIXTEEN_BIT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FEW_BITS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT4E2M1,
)
_PRODUCTS = ("MatMul", "Conv")


def simulate(model: ir.Model) -> ir.Model:
    """A copy of `model` that ONNX Runtime's CPU kernels compute with 16-bit rounding after every
    node.
    """
    simulated = model.clone()
    graph = simulated.graph
    exact = {value for node in graph for value in _exact_operands(node)}
    _widen_constants(graph)
    for node in list(graph):
        for value in node.outputs:
            if value in exact:
                _widen(node, value)
            elif value.dtype in SIXTEEN_BIT:
                _round(graph, node, value, value.dtype)
    return simulated


def widen(model: ir.Model) -> ir.Model:
    """A copy of `model` with 32 bits where it has 16, so that nothing is rounded to 16 bits."""
    wide = model.clone()
    _widen_constants(wide.graph)
    for node in wide.graph:
        for value in node.outputs:
            if value.dtype in SIXTEEN_BIT:
                _widen(node, value)
    return wide


def _widen(node: ir.Node, value: ir.Value) -> None:
    """Makes an output of `node` fp32."""
    set_dtype(value, ir.DataType.FLOAT)
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _widen_constants(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        if value.dtype in SIXTEEN_BIT and value.const_value is not None:
            value.const_value = ir.tensor(array(value).astype(np.float32), name=value.name)
            set_dtype(value, ir.DataType.FLOAT)


def sixteen_bit_types(model: ir.Model) -> set[ir.DataType]:
    """The 16-bit types that `model` computes in."""
    types = {value.dtype for node in model.graph for value in node.outputs}
    return {dtype for dtype in SIXTEEN_BIT if dtype in types}


def _exact_operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """Both operands of a product of dequantised numbers that only products read; else ()."""
    operands = tuple(value for value in node.inputs[:2] if value is not None)
    if node.op_type not in _PRODUCTS or not all(map(_has_few_bits, operands)):
        return ()
    return operands


def _has_few_bits(value: ir.Value) -> bool:
    """True for numbers dequantised from few bits, cast or not, that only products read."""
    node = value.producer()
    if node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    users = {user.op_type for user in value.consumers()}
    return node.inputs[0].dtype in _FEW_BITS and users <= {*_PRODUCTS}


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
    """Makes `value` fp32, and its users read a copy that is rounded to `dtype`."""
    _widen(node, value)
    down = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}@rounded")
    up = ir.node("Cast", down.outputs, {"to": ir.DataType.FLOAT}, name=f"{value.name}@widened")
    for cast, kind in ((down, dtype), (up, ir.DataType.FLOAT)):
        describe(cast.outputs[0], cast.name, value.shape, kind)
    value.replace_all_uses_with(up.outputs[0])
    down.replace_input_with(0, value)
    graph.insert_after(node, (down, up))


def has_float4(graph: ir.Graph) -> bool:
    """True if the graph has tensors of 4-bit floating-point numbers."""
    return any(_is_float4(value) for node in graph for value in node.inputs)


def in_standard_operators(model: ir.Model) -> ir.Model:
    """A copy of `model` that any runtime can run; `model` itself if it does not use NVFP4."""
    if not has_float4(model.graph):
        return model
    copy = model.clone()
    constants = _Constants(copy.graph)
    for node in list(copy.graph):
        if node.op_type == QUANTISER:
            _expand_quantiser(copy.graph, node, constants)
        elif node.op_type == "DequantizeLinear" and _is_constant(node.inputs[0]):
            _fold_weight(copy.graph, node)
    copy.opset_imports.pop(DOMAIN, None)
    return copy


def _is_float4(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == FP4_GRID.dtype


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and _is_float4(value)


class _Constants:
    """Constants that all expanded quantisers share, each added once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values: dict[str, ir.Value] = {}

    def __call__(self, number: float | list[int]) -> ir.Value:
        key = str(number)
        if key not in self._values:
            kind = np.int64 if isinstance(number, list) else np.float32
            data: np.ndarray = np.array(number, kind)
            self._values[key] = add_initializer(self._graph, f"float4/{key}", data)
        return self._values[key]


def _expand_quantiser(graph: ir.Graph, quantise: ir.Node, constant: _Constants) -> None:
    """Replaces a quantiser and the two nodes that dequantise its outputs."""
    value, step = quantise.inputs
    assert value is not None
    assert step is not None
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value, **attributes: int | ir.DataType) -> ir.Value:
        name = f"{quantise.name}/{op_type}_{len(nodes)}"
        node = ir.node(op_type, inputs, attributes, name=name)
        nodes.append(node)
        boolean = op_type == "Less"
        kind = ir.DataType.BOOL if boolean else ir.DataType.FLOAT
        return describe(node.outputs[0], name, None, kind)

    wide = add("Cast", value, to=ir.DataType.FLOAT)
    blocks = add("Reshape", wide, constant([-1, BLOCK]))
    amax = add("ReduceMax", add("Abs", blocks), constant([1]), keepdims=1)
    exact = add("Div", add("Div", amax, constant(FP4_GRID.largest)), step)
    stored = add("Cast", exact, to=FP8_GRID.dtype)
    describe(stored, stored.name, None, FP8_GRID.dtype)
    steps = add("Mul", add("Cast", stored, to=ir.DataType.FLOAT), step)
    # A block whose scale rounds to 0 is 0, whatever it is divided by.
    divisor = add("Max", steps, constant(float(np.finfo(np.float32).tiny)))
    largest = constant(FP4_GRID.largest)
    scaled = add("Div", blocks, divisor)
    clipped = add("Max", add("Min", scaled, largest), add("Neg", largest))
    size = add("Abs", clipped)
    coarse = add("Where", add("Less", size, constant(4.0)), constant(1.0), constant(2.0))
    spacing = add("Where", add("Less", size, constant(2.0)), constant(0.5), coarse)
    numbers = add("Mul", add("Round", add("Div", clipped, spacing)), spacing)
    shape = ir.node("Shape", [value], name=f"{quantise.name}/Shape")
    describe(shape.outputs[0], shape.name, None, ir.DataType.INT64)
    nodes.append(shape)
    result = add("Reshape", add("Mul", numbers, steps), shape.outputs[0])
    graph.insert_before(quantise, nodes)
    for user in list(_last_of(quantise)):
        result.shape = user.outputs[0].shape
        user.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
        first = dequantised_scales(user)
        assert first is not None
        graph.remove(user, safe=True)
        graph.remove(first, safe=True)
    graph.remove(quantise, safe=True)


def _last_of(quantise: ir.Node) -> Iterator[ir.Node]:
    """Yields the nodes that dequantise the quantiser's numbers."""
    yield from quantise.outputs[0].consumers()


def _fold_weight(graph: ir.Graph, node: ir.Node) -> None:
    """Replaces constants and the two nodes that dequantise them with the resulting weight."""
    first, output = dequantised_scales(node), node.outputs[0]
    assert first is not None
    constants = [node.inputs[0], *first.inputs]
    weight = add_initializer(graph, f"{output.name}/folded", weight_of(node))
    output.replace_all_uses_with(weight, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    graph.remove(first, safe=True)
    for value in constants:
        if value is not None and not value.uses() and value.name in graph.initializers:
            del graph.initializers[str(value.name)]


BATCH = 4
BACKEND = "onnxruntime"
AS_IT_IS, SIMULATED = "as it is", "simulated"


def iter_outputs(model: ir.Model, images: ImageSet, batch: int = BATCH) -> Iterator[list[Any]]:
    """Yields the graph's outputs for each batch; NVFP4 runs in standard operators.

    Raises:
        EngineError: if the graph does not run.
    """
    name = model.graph.inputs[0].name
    try:
        content = to_bytes(in_standard_operators(model))
        session = open_inference(content.graph, content.external)
        del content
        for frames in images.batches(batch):
            yield session.run(None, {name: frames})
    except BackendError:  # a missing library is not the graph's fault
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
    """Returns `SIMULATED` for a graph with 16-bit tensors, to compute them as GPUs do.

    A CPU computes many of them in 32 bits, and so deviates no more from the reference.
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
    """Latency of the ONNX file on the fastest CPU backend of this machine; None if it has none.

    This is a rough figure: measure with `vit-edge compare` before you decide.
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
