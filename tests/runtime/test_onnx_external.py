"""A graph reads no file that the manifest does not list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from vit_edge.runtime.bundle import TENSOR_FIELDS, Bundle, external_locations
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import BundleError

from .test_bundle import replace_file, rewrite_manifest

SIDE = 64


def external_tensor(location: str, name: str = "w") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=1, dims=[SIDE, SIDE], data_location=1)
    for key, value in (("offset", "0"), ("location", location), ("length", str(4 * SIDE**2))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(**fields: Any) -> onnx.ModelProto:
    """Builds a graph of y = x w, with whatever `fields` adds to the graph."""
    x = helper.make_tensor_value_info("x", 1, [1, SIDE])
    y = helper.make_tensor_value_info("y", 1, [1, SIDE])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y])
    graph.MergeFrom(onnx.GraphProto(**fields))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def holding(attribute: onnx.AttributeProto) -> onnx.ModelProto:
    return model(node=[onnx.NodeProto(op_type="Constant", attribute=[attribute])])


def test_our_table_is_onnx_own() -> None:
    """Every way from a model to a tensor's external data in the genuine description."""
    genuine: dict[str, dict[int, str]] = {}

    def leads_there(message: Descriptor, seen: tuple[str, ...] = ()) -> bool:
        return message.name == "TensorProto" or any(
            leads_there(field.message_type, (*seen, message.name))
            for field in message.fields
            if field.message_type and field.message_type.name not in (*seen, message.name)
        )

    def visit(message: Descriptor) -> None:
        ways = {
            field.number: field.message_type
            for field in message.fields
            if field.message_type
            and (field.name == "external_data" or leads_there(field.message_type))
        }
        if message.name in genuine or message.name == "StringStringEntryProto":
            return
        genuine[message.name] = {number: kind.name for number, kind in ways.items()}
        for kind in ways.values():
            visit(kind)

    visit(onnx.ModelProto.DESCRIPTOR)
    assert {k: v for k, v in genuine.items() if v} == TENSOR_FIELDS


@pytest.mark.parametrize(
    "found",
    [
        model(initializer=[external_tensor("w.bin")]),
        model(sparse_initializer=[onnx.SparseTensorProto(values=external_tensor("w.bin"))]),
        model(sparse_initializer=[onnx.SparseTensorProto(indices=external_tensor("w.bin"))]),
        holding(onnx.AttributeProto(name="value", type=4, t=external_tensor("w.bin"))),
        holding(onnx.AttributeProto(tensors=[onnx.TensorProto(), external_tensor("w.bin")])),
        holding(
            onnx.AttributeProto(sparse_tensor=onnx.SparseTensorProto(values=external_tensor("w.bin")))
        ),
        holding(onnx.AttributeProto(g=model(initializer=[external_tensor("w.bin")]).graph)),
        holding(onnx.AttributeProto(graphs=[model(initializer=[external_tensor("w.bin")]).graph])),
        onnx.ModelProto(
            functions=[onnx.FunctionProto(node=holding(onnx.AttributeProto(t=external_tensor("w.bin"))).graph.node)]
        ),
        onnx.ModelProto(
            training_info=[
                onnx.TrainingInfoProto(algorithm=model(initializer=[external_tensor("w.bin")]).graph)
            ]
        ),
    ],
)  # fmt: skip
def test_it_is_found_wherever_it_hides(found: onnx.ModelProto) -> None:
    assert external_locations(found.SerializeToString()) == {"w.bin"}


def test_a_model_without_any_has_none(bundle_source: Path) -> None:
    assert external_locations(model().SerializeToString()) == set()
    for path in (bundle_source / "onnx").iterdir():
        assert external_locations(path.read_bytes()) == set()
    named = model(initializer=[onnx.TensorProto(name="location", raw_data=b"location" * 9)])
    assert external_locations(named.SerializeToString()) == set()


def test_long_spellings_of_numbers_hide_nothing() -> None:
    """Protobuf takes a length of more bytes than it needs."""
    raw = model(initializer=[external_tensor("w.bin")]).SerializeToString()
    entry = b"\x0a\x08location\x12\x05w.bin"
    assert entry in raw
    longer = raw.replace(entry, b"\x12\x85\x80\x00w.bin\x0a\x88\x80\x80\x00location")
    tensor = onnx.TensorProto()
    tensor.external_data.add().ParseFromString(longer[longer.index(b"\x12\x85") :][:22])
    assert tensor.external_data[0].value == "w.bin"
    inner = delimited(b"\x6a", b"\x12\x85\x80\x00w.bin\x0a\x88\x80\x80\x00location")
    assert external_locations(delimited(b"\x3a", delimited(b"\x2a", inner))) == {"w.bin"}


@pytest.mark.parametrize(
    "raw",
    [
        b"\x3a\x7f",
        b"\x3a",
        b"\x3b\x3c",
        b"\x00\x00",
        b"\xff" * 12,
        b"\x3d\x00",
        b"\x39\x00",
        b"\x08\x00" * ((1 << 18) + 1),
    ],
)
def test_what_is_not_well_formed_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError, match="not valid ONNX"):
        external_locations(raw)


def test_deep_nesting_is_refused_in_a_moment() -> None:
    raw = b""
    for _ in range(3000):  # a graph in an attribute of a node of a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            raw = delimited(tag, raw)
    with pytest.raises(BundleError, match="nested too deeply"):
        external_locations(delimited(b"\x3a", raw))


def delimited(tag: bytes, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return tag + length + bytes([size]) + content


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_our_error(data: st.DataObject) -> None:
    raw = bytearray(model(initializer=[external_tensor("w.bin")]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = external_locations(bytes(raw))
    except BundleError:
        return
    try:
        parsed = onnx.load_from_string(bytes(raw))
    except Exception:
        return
    genuine = {
        e.value for t in parsed.graph.initializer for e in t.external_data if e.key == "location"
    }
    assert genuine <= found


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/etc/passwd", ""])
def test_a_graph_with_files_of_its_own_never_reaches_a_backend(
    bundle: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime reads them from the working directory when it is given bytes."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the graph reached ONNX Runtime")

    raw = model(initializer=[external_tensor(location)]).SerializeToString()
    for name in ("fp32", "fp16", "int8"):
        replace_file(bundle, f"onnx/{name}.onnx", raw)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BundleError, match="which the manifest does not list"):
        Engine.load(bundle, backend="onnxruntime")


def test_listed_weights_are_let_through(bundle: Path) -> None:
    raw = model(initializer=[external_tensor("w.bin")]).SerializeToString()
    weights = np.eye(SIDE, dtype=np.float32).tobytes()
    replace_file(bundle, "onnx/fp32.onnx", raw)
    replace_file(bundle, "onnx/w.bin", weights)
    rewrite_manifest(
        bundle,
        lambda m: m["precisions"]["fp32"]["graphs"]["cpu"].update(external=["onnx/w.bin"]),
    )
    opened = Bundle.open(bundle)
    graph, external = opened.read_graph(opened.manifest.precisions["fp32"].graphs["cpu"])
    assert graph == raw
    assert {name: bytes(content) for name, content in external.items()} == {"w.bin": weights}
