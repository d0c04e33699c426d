from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Blob, Deployment
from vit_edge.runtime.errors import EngineError, ResourceError
from vit_edge.runtime.tools.profile.kernels import (
    CASTS,
    ELEMENTWISE,
    MOVES,
    OTHER,
    PRODUCTS,
    Kernel,
    layer_name,
)
from vit_edge.runtime.tools.profile.onnxruntime import kind_of, profile, read_events

ONNXRUNTIME = BACKENDS["onnxruntime"]


def kernels(path: Path, precision: str) -> list[Kernel]:
    deployment = Deployment(Bundle.open(path))
    (candidate,) = deployment.candidates(precision, "onnxruntime")
    blob = deployment.load(candidate)
    assert blob is not None
    return profile(ONNXRUNTIME, blob, deployment.bundle.manifest.spec, 1, 0.02)


def of_kind(found: list[Kernel], kind: str) -> list[str]:
    return [layer_name(kernel.name) for kernel in found if kernel.kind == kind]


def test_an_8_bit_graph_multiplies_8_bits_and_quantises(bundle_source: Path) -> None:
    found = kernels(bundle_source, "int8")
    assert len(of_kind(found, PRODUCTS[8])) == 16
    assert len(of_kind(found, PRODUCTS[32])) == 2
    assert of_kind(found, CASTS)
    assert not of_kind(found, OTHER)


def test_fp16_is_computed_in_fp32_behind_casts(bundle_source: Path) -> None:
    found = kernels(bundle_source, "fp16")
    assert len(of_kind(found, PRODUCTS[32])) == 18
    assert not of_kind(found, PRODUCTS[16])
    plain = kernels(bundle_source, "fp32")
    assert sorted(of_kind(plain, PRODUCTS[32])) == sorted(of_kind(found, PRODUCTS[32]))
    assert len(of_kind(found, CASTS)) > len(of_kind(plain, CASTS)) + 10


def test_products_of_attention_are_not_those_of_layers(bundle_source: Path) -> None:
    found = kernels(bundle_source, "fp32")
    attention = [name for name in of_kind(found, ELEMENTWISE) if name.endswith(".attn")]
    assert len(attention) >= 8
    assert of_kind(found, MOVES)


def test_nothing_is_left_behind(
    bundle_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert kernels(bundle_source, "fp32")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_that_may_pass(
    bundle_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ResourceError, match="TMPDIR names another place"):
        kernels(bundle_source, "fp32")


def test_a_graph_that_is_refused_is_an_error(bundle_source: Path) -> None:
    spec = Bundle.open(bundle_source).manifest.spec
    with pytest.raises(EngineError, match="ONNX Runtime's profiler failed"):
        profile(ONNXRUNTIME, Blob(b"no graph"), spec, 1, 0.0)


def event(name: str, microseconds: int, operator: str = "Add", **other: Any) -> dict[str, Any]:
    arguments = {"op_name": operator, "node_index": name, **other}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": arguments}


def test_the_time_to_write_an_event_is_not_the_nodes() -> None:
    call = [event("a", 5, "Shape"), event("b", 25, "QGemm"), event("c", 7, "Cast")]
    start = [event("a", 900, "Shape"), event("b", 900, "QGemm"), event("c", 900, "Cast")]
    session = {"cat": "Session", "name": "model_run", "dur": 100, "args": {}}
    found = read_events([*start, *start, session, *call, session, *call])
    assert [(k.name, k.kind, k.microseconds) for k in found] == [
        ("a", MOVES, 0.0), ("b", PRODUCTS[8], 20.0), ("c", CASTS, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("events", [[], [event("a", 5)] * 2, [{"cat": "Session"}]])
def test_too_few_events_are_an_error(events: list[dict[str, Any]]) -> None:
    with pytest.raises(EngineError, match="no kernels"):
        read_events(events)


@pytest.mark.parametrize(
    ("operator", "types", "parameters", "kind"),
    [
        ("MatMul", ["float"], "0", PRODUCTS[32]),  # weights that were packed ahead
        ("MatMul", ["float", "float"], "0", ELEMENTWISE),
        ("MatMul", ["float", "float"], "4096", PRODUCTS[32]),
        ("MatMul", ["float16", "float16"], "2048", PRODUCTS[16]),
        ("Gemm", ["float", "float"], "0", PRODUCTS[32]),
        ("MatMulIntegerToFloat", ["uint8", "float"], "4", PRODUCTS[8]),
        ("QGemm", ["uint8"], "4", PRODUCTS[8]),
        ("MatMulNBits", ["float"], "4", PRODUCTS[32]),
        ("DequantizeLinear", ["int8"], "4", CASTS),
        ("ReorderOutput", ["float"], "0", MOVES),
        ("SkipLayerNormalization", ["float"], "4", ELEMENTWISE),
        ("SomethingNew", ["float"], "0", OTHER),
    ],
)
def test_kinds_of_operators(operator: str, types: list[str], parameters: str, kind: str) -> None:
    shapes = [{name: [1, 2]} for name in types]
    arguments = {"op_name": operator, "input_type_shape": shapes, "parameter_size": parameters}
    assert kind_of(arguments) == kind
