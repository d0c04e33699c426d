"""ONNX graphs as files and as bytes, whatever their size.

Protobuf is limited to 2 GiB: a larger graph has its weights in a second file beside it,
`<stem>.data`, to which the graph refers.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

LIMIT = (1 << 31) - (1 << 26)
"""Most bytes of weights in a single file, with room for the rest of the graph."""
_SMALL = 1024


@dataclass(frozen=True)
class OnnxBytes:
    """A serialised graph, and the contents of the files that it refers to, in that order."""

    graph: bytes
    external: Mapping[str, memoryview] = field(default_factory=dict)


def weights_file(path: Path) -> Path | None:
    """Returns the second file of the graph at `path`, if it has one."""
    weights = path.with_suffix(".data")
    return weights if weights.is_file() else None


def save_onnx(model: ir.Model, path: Path) -> None:
    """Writes the graph, and its weights beside it if they are too large."""
    if _size(model) > LIMIT:
        name = path.with_suffix(".data").name
        ir.save(model, path, external_data=name, size_threshold_bytes=_SMALL)
    else:
        ir.external_data.load_to_model(model)  # they may still be in the file of another graph
        ir.save(model, path)


def read_onnx(path: Path) -> OnnxBytes:
    """Reads a graph that `save_onnx` wrote; its second file is mapped, not read."""
    weights = weights_file(path)
    external = {} if weights is None else {weights.name: _map(weights)}
    return OnnxBytes(path.read_bytes(), external)


def to_bytes(model: ir.Model) -> OnnxBytes:
    """Serialises the graph, with each large weight as the content of a separate external file.

    This is for a session in this process: Protobuf would copy the weights several times, at a
    quarter of a gigabyte a second, and is limited to 2 GiB.
    """
    graph, external = model.clone(), dict[str, memoryview]()
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= _SMALL:
            content, name = _content(tensor), str(len(external))
            external[name] = content
            value.const_value = ir.ExternalTensor(
                name,
                0,
                len(content),
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
            )
    return OnnxBytes(ir.to_proto(graph).SerializeToString(), external)


def _content(tensor: ir.TensorProtocol) -> memoryview:
    """Returns the weights' bytes, copied only if their layout in memory differs from the file's."""
    if tensor.dtype.bitwidth < 8:
        return memoryview(tensor.tobytes())  # two numbers in a byte
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


def graph_digest(model: ir.Model) -> str:
    """Computes the SHA-256 of the serialised graph, weights included."""
    content = to_bytes(model)
    state = hashlib.sha256(content.graph)
    for weights in content.external.values():
        state.update(weights)
    return state.hexdigest()


def same_graph(one: ir.Model, other: ir.Model) -> bool:
    """Returns True if both graphs are the same to the last weight."""
    kinds = [[node.op_type for node in model.graph] for model in (one, other)]
    return kinds[0] == kinds[1] and graph_digest(one) == graph_digest(other)


def _size(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
