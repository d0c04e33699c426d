"""Which files an ONNX graph wants to read its weights from.

ONNX Runtime and TensorRT open such files by name, relative to the process's working directory where
a graph is given as bytes, and follow `../`. A hostile graph would read what it likes. So the names
are looked up in the verified bytes first, and only those that the manifest lists are let through.

Just enough of protobuf's wire format for that, read strictly: what protobuf would skip as unknown
is skipped, what it might read in another way is refused.
Source: protobuf.dev/programming-guides/encoding, `onnx.proto` (IR version 13).
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import BundleError

_MAX_DEPTH = 64
_MAX_FIELDS = 1 << 18
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


TENSOR_FIELDS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""For each message type the fields through which a tensor's `external_data` is reached."""
_KEY, _VALUE = 1, 2
_LOCATION = b"location"


def external_locations(graph: bytes) -> set[str]:
    """The files that the tensors of an ONNX `ModelProto` name, as they name them.

    Raises:
        BundleError: if the bytes are not well-formed.
    """
    found: set[str] = set()
    pending = [(memoryview(graph), "ModelProto", 0)]
    budget = iter(range(_MAX_FIELDS))
    try:
        while pending:
            message, kind, depth = pending.pop()
            if depth > _MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            fields = _fields(message, budget)
            if kind == "StringStringEntryProto":
                found.update(_location(fields))
                continue
            inner = TENSOR_FIELDS[kind]
            pending += [
                (content, inner[number], depth + 1) for number, content in fields if number in inner
            ]
    except ValueError as error:
        raise BundleError(f"a graph of the bundle is not valid ONNX: {error}") from None
    return found


def _location(entry: Iterator[tuple[int, memoryview]]) -> set[str]:
    """What an entry says if it is, or a sloppy reader might take it for, the location."""
    fields = [(number, bytes(content)) for number, content in entry]
    if (_KEY, _LOCATION) not in fields:
        return set()
    return {content.decode("utf-8") for number, content in fields if number == _VALUE} or {""}


def _fields(message: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message; takes one from `budget` for every field.

    Raises:
        ValueError: if the message is not well-formed, or `budget` is at its end.
    """
    position, end = 0, len(message)
    while position < end:
        if next(budget, None) is None:
            raise ValueError(f"it has more than {_MAX_FIELDS} fields")
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _BYTES:
            size, position = _varint(message, position)
            if size > end - position:
                raise ValueError("a field is longer than the file")
            yield number, message[position : position + size]
            position += size
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
            if position > end:
                raise ValueError("a field is longer than the file")
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, and the position after it."""
    value = 0
    for shift, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("a number without an end")
