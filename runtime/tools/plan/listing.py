"""Reads the layers of an engine from its builder's log or from its inspector.

TensorRT for RTX logs, at verbose severity, one message that begins with "Layers:" and has a line
for each layer; the engine inspector of TensorRT 10 and 11 writes the same fields as JSON.

Source: TensorRT Python API (EngineInspector); the listing has no specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_edge.runtime.backends.tensorrt.inspect import node_name
from vit_edge.runtime.errors import EngineError

from . import layers as kinds
from .layers import EngineLayer, EngineTensor
from .types import bits, find_type

HEADER = "Layers:"
"""Beginning of the builder's message with the layers."""

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*)\], "
    r"Constants: \[(?P<constants>.*)\], Outputs: \[(?P<outputs>.*)\], TacticName: (?P<kernel>.*?), "
    r"StreamId: (?P<stream>\d+),.*?Metadata: (?P<metadata>.*)$"
)
_TENSOR = re.compile(
    r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\],.*?Datatype: (\w+), Format: [^{}]*\}"
)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SUFFIX = re.compile(r"_myl\d+_\d+$")
_STEPS = re.compile(r"^__myl_((?:[A-Z][a-z]+)+)_myl\d+_\d+$")

_BY_TYPE = {
    "gemm": kinds.GEMM,
    "matrixmultiply": kinds.GEMM,
    "matrix_multiply": kinds.GEMM,
    "caskgemmmatrixmultiply": kinds.GEMM,
    "correlation": kinds.CONVOLUTION,
    "convolution": kinds.CONVOLUTION,
    "caskconvolution": kinds.CONVOLUTION,
    "caskgemmconvolution": kinds.CONVOLUTION,
    "reformat": kinds.COPY,
    "shuffle": kinds.COPY,
    "signal": kinds.WAIT,
    "wait": kinds.WAIT,
    "shape_call": kinds.SHAPE,
}
_LAYOUT = {"Move", "Resh", "Tran", "Slic", "Conc", "Repl"}
"""Steps of a generated kernel that only bring numbers to another place."""
_MULTIPLIES = {"Fc", "Bmm", "Gemm", "Matm"}
_WIDE, _NARROW = 16, 8


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers of an engine, in the order in which they run.

    Args:
        text: The builder's message, or what `EngineInspector.get_engine_information` wrote as JSON.

    Raises:
        EngineError: if it is neither, names the layers only, or tells what is not possible.
    """
    try:
        return _read(text)
    except ValueError as error:
        raise EngineError(f"the builder's listing is not understood: {error}") from None


def _read(text: str) -> tuple[EngineLayer, ...]:
    if text.lstrip().startswith(HEADER):
        lines = [line for line in text.splitlines() if line.startswith("Name: ")]
        matches = [_LINE.match(line) for line in lines]
        bad = next((line for line, match in zip(lines, matches, strict=True) if not match), None)
        if bad is not None:
            raise EngineError(f"a layer in the builder's listing is not understood: {bad[:80]!r}")
        return tuple(_listed(match) for match in matches if match)
    return _inspected(text)


def _listed(match: re.Match[str]) -> EngineLayer:
    sides = [_listed_tensors(match[side]) for side in ("inputs", "constants", "outputs")]
    return _layer(
        match["name"], match["type"], sides, match["metadata"], match["kernel"], match["stream"]
    )


def _listed_tensors(text: str) -> tuple[EngineTensor, ...]:
    tensors = _TENSOR.findall(text)
    if len(tensors) != text.count("{ Name: "):
        raise EngineError(f"a tensor in the builder's listing is not understood: {text[:80]!r}")
    return tuple(
        EngineTensor(
            node_name(name),
            tuple(int(size) for size in shape.split(",") if size),
            find_type(dtype),
        )
        for name, shape, dtype in tensors
    )


def _inspected(text: str) -> tuple[EngineLayer, ...]:
    try:
        entries = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"the engine inspector answered {text[:80]!r}") from None
    if not all(isinstance(entry, dict) for entry in entries):
        raise EngineError(
            "it was built without descriptions of its layers: `vit-edge build` makes one with them"
        )
    return tuple(map(_inspected_layer, entries))


def _inspected_layer(entry: dict[str, Any]) -> EngineLayer:
    inputs, constants, outputs = (
        _described_tensors(entry.get(side)) for side in ("Inputs", "Constants", "Outputs")
    )
    weights = entry.get("Weights")
    if isinstance(weights, dict):
        constants += (EngineTensor("", (), find_type(str(weights.get("Type")))),)
    return _layer(
        str(entry.get("Name", "")),
        str(entry.get("LayerType", "")),
        [inputs, constants, outputs],
        str(entry.get("Metadata", "")),
        str(entry.get("TacticName", "")),
        str(entry.get("StreamId", "0")),
    )


def _described_tensors(entries: object) -> tuple[EngineTensor, ...]:
    """Of a layer's inputs or outputs. TensorRT 10 has "Format/Datatype", 11 has "DataType"."""
    tensors = []
    for entry in entries if isinstance(entries, list) else []:
        values: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
        types = [str(value) for key, value in values.items() if key.lower().endswith("datatype")]
        sizes = values.get("Dimensions")
        shape = tuple(s for s in sizes if isinstance(s, int)) if isinstance(sizes, list) else ()
        dtype = find_type(types[0]) if types else find_type("")
        tensors.append(EngineTensor(node_name(str(values.get("Name", ""))), shape, dtype))
    return tuple(tensors)


def _layer(
    name: str,
    layer_type: str,
    sides: Sequence[tuple[EngineTensor, ...]],
    metadata: str,
    kernel: str,
    stream: str,
) -> EngineLayer:
    inputs, constants, outputs = sides
    name, kernel = node_name(name), node_name(kernel)
    nodes = tuple(map(node_name, _NODE.findall(metadata))) or _named_after(name)
    kind = _kind(name, layer_type, inputs, constants, outputs)
    number = int(stream) if stream.isdecimal() else 0
    return EngineLayer(name, kind, inputs, constants, outputs, nodes, kernel, number)


def _kind(
    name: str,
    layer_type: str,
    inputs: tuple[EngineTensor, ...],
    constants: tuple[EngineTensor, ...],
    outputs: tuple[EngineTensor, ...],
) -> str:
    if "_mha_" in name:
        return kinds.ATTENTION
    known = _BY_TYPE.get(layer_type.lower())
    if known is not None:
        return known
    match = _STEPS.match(name)
    steps = set(re.findall("[A-Z][a-z]+", match[1])) if match else set()
    if steps & _MULTIPLIES:
        return kinds.FUSION
    if not inputs and _widens(constants, outputs):
        return kinds.DEQUANTISE
    return kinds.COPY if steps and steps <= _LAYOUT else kinds.ELEMENTWISE


def _widens(constants: tuple[EngineTensor, ...], outputs: tuple[EngineTensor, ...]) -> bool:
    """Returns whether wide numbers are made of narrow constants."""
    before = [bits(t.dtype) or _WIDE for t in constants if len(t.shape) > 1]
    after = [bits(t.dtype) or _NARROW for t in outputs]
    return bool(before) and bool(after) and min(before) <= _NARROW and min(after) >= _WIDE


def _named_after(name: str) -> tuple[str, ...]:
    """The nodes that a layer without metadata is named after: "a + b", or "a+b_myl0_7"."""
    return tuple(re.split(r"\s*\+\s*", _SUFFIX.sub("", name)))
