"""What the layers of an engine run in, from what TensorRT's engine inspector writes.

The answers are built here after public ones. TensorRT 8 and 10: the developer guide ("Engine
Inspector") and NVIDIA/TensorRT issues 4020 and 4397 on GitHub. TensorRT 11: the migration guide
("Migrating IEngineInspector Usage"), which splits "Format/Datatype". TensorRT for RTX: the API is
the same, no answer of it was found. What a graph asks comes from a genuine parser.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.backends import BACKENDS
from runtime.backends.tensorrt import _logger
from runtime.backends.tensorrt_layers import (
    Layers,
    Product,
    asked_products,
    parse_layers,
    read_layers,
)
from runtime.backends.tensorrt_types import UNKNOWN
from runtime.bundle import Bundle
from runtime.errors import EngineError
from runtime.manifest import EngineSpec

from .api import differences, recordings
from .inspected import ASKED, TEN, layer

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
SPEC = EngineSpec("images", "logits", (8, 8, 1), 10, (1, 2, 4))


def test_each_layer_has_its_precision() -> None:
    layers = parse_layers(json.dumps(TEN))
    assert [one.precision for one in layers] == ["fp32", "int8", "fp16", "fp16"]
    assert (layers[0].inputs, layers[0].outputs) == (("fp32",), ("int8",))
    assert layers[1].nodes == ("qkv/MatMul", "qkv/Add")
    assert layers[3].nodes == ("attn/MatMul", "attn/Softmax", "attn/MatMul_2")
    assert layers[1].kind == "gemm"


def test_products_are_held_against_what_was_asked() -> None:
    found = Layers(parse_layers(json.dumps(TEN)), ASKED)
    assert found.products() == [
        Product("qkv/MatMul", "int8", "int8"),
        Product("proj/MatMul", "int8", "fp16"),
        Product("attn/MatMul", "fp16", "fp16"),
        Product("attn/MatMul_2", "fp16", "fp16"),
        Product("head/Gemm", "fp16", UNKNOWN),
    ]
    assert found.shares() == {"fp16": 2, "fp32": 1, "int8": 1}


def test_of_several_layers_of_a_node_the_one_that_multiplies_counts() -> None:
    described = {
        "Layers": [
            layer("r", "Reformat", ["Half"], ["Int8"], Metadata="[ONNX Layer: qkv/MatMul]"),
            TEN["Layers"][1],
        ]
    }
    found = Layers(parse_layers(json.dumps(described)), {"qkv/MatMul": "int8"})
    assert found.products()[0].runs == "int8"


def test_eleven_writes_types_and_formats_apart() -> None:
    tensor = {"Name": "x", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}
    one = {"Name": "a", "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor]}
    described = {"Layers": [one], "I/O Tensors": [{"Name": "images", "DataType": "UInt8"}]}
    (found,) = parse_layers(json.dumps(described))
    assert (found.inputs, found.precision) == (("fp16",), "fp16")


def test_layers_without_metadata_are_known_by_their_names() -> None:
    """TensorRT 8, and layers of Myelin that carry none."""
    described = {"Layers": [layer("a + b", "X", [], []), layer("c+d_myl0_7", "gemm", [], [])]}
    assert [one.nodes for one in parse_layers(json.dumps(described))] == [("a", "b"), ("c", "d")]


def test_unknown_formats_stay_unknown_unless_weights_tell() -> None:
    unknown = "N/A due to dynamic shapes"
    described = {
        "Layers": [
            layer("a", "Shuffle", [unknown], [unknown]),
            layer("b", "CaskConvolution", [unknown], [unknown], Weights={"Type": "Half"}),
            {"Name": "c", "Inputs": None},
        ]
    }
    found = parse_layers(json.dumps(described))
    assert [one.precision for one in found] == [UNKNOWN, "fp16", UNKNOWN]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": 3}', "no layers", "null"])
def test_what_is_no_description_is_one_clear_error(text: str) -> None:
    with pytest.raises(EngineError, match="engine inspector answered"):
        parse_layers(text)


def test_an_engine_that_names_its_layers_only_is_told_what_to_do() -> None:
    with pytest.raises(EngineError, match="vit-edge build"):
        parse_layers('{"Layers": ["qkv_myl0_7", "proj_myl0_9"], "Bindings": ["images"]}')


@needs_rtx
class TestAsked:
    """By the genuine parser of TensorRT for RTX, of the bundle's own graphs."""

    def asked(self, bundle: Path, precision: str) -> dict[str, str]:
        opened = Bundle.open(bundle)
        onnx = opened.read(opened.manifest.precisions[precision].graphs["gpu"].file)
        library, messages = RTX._library(), list[str]()  # type: ignore[attr-defined]
        return asked_products(library, _logger(library, messages), onnx, {}, messages)

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_a_float_graph_asks_for_one_type(self, bundle_source: Path, precision: str) -> None:
        asked = self.asked(bundle_source, precision)
        assert set(asked.values()) == {precision}
        assert {"patch_embed.proj/Conv", "blocks.0.attn.qkv/MatMul", "blocks.3.attn/MatMul"} <= (
            asked.keys()
        )

    def test_a_quantised_graph_asks_for_int8_in_its_linears(self, bundle_source: Path) -> None:
        asked = self.asked(bundle_source, "int8")
        linears = ("qkv", "proj", "fc1", "fc2")
        wanted = {n: n.split("/")[0].split(".")[-1] in linears and "blocks" in n for n in asked}
        assert sum(wanted.values()) == 16
        assert {n: "int8" if quantised else "fp16" for n, quantised in wanted.items()} == asked

    def test_a_graph_that_is_none_is_refused(self) -> None:
        library, messages = RTX._library(), list[str]()  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="parser refused"):
            asked_products(library, _logger(library, messages), b"no graph", {}, messages)


class Context:
    """Stands for IExecutionContext; the inspector knows its formats once shapes are set."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = (name, shape)
        return True


class Inspector:
    """Stands for EngineInspector."""

    execution_context: Context

    def get_engine_information(self, format: str) -> str:  # noqa: A002
        assert (format, self.execution_context.shape) == ("JSON", ("images", (2, 8, 8, 1)))
        return json.dumps(TEN)


class Engine:
    """Stands for ICudaEngine."""

    def create_execution_context(self) -> Context:
        return Context()

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Runtime:
    """Stands for Runtime."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine:
        return Engine()


INSPECTING = SimpleNamespace(
    Runtime=Runtime,
    EngineInspector=Inspector,
    LayerInformationFormat=SimpleNamespace(JSON="JSON"),
    __version__="11.4.0",
)


@pytest.mark.parametrize("api", recordings("tensorrt"), ids=lambda api: api.version)
def test_the_stand_ins_are_as_the_genuine_classes(api: Any) -> None:
    for owner, stand_in in (("EngineInspector", Inspector), ("Runtime", Runtime)):
        assert differences(stand_in, api, owner) == []
    assert differences(Context, api, "IExecutionContext") == []


def test_layers_are_read_at_the_size_that_the_engine_was_built_for_best() -> None:
    layers = read_layers(INSPECTING, SimpleNamespace(errors=[]), b"engine", SPEC)
    assert [one.precision for one in layers] == ["fp32", "int8", "fp16", "fp16"]
