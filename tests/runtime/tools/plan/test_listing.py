"""Layers from a builder's listing and from an inspector's answer.

The listings were logged by TensorRT for RTX 1.7.1 for a ViT-B/16 of three blocks at batch 8: INT8
with one QKV product that is cut (`together`; with a Clip before the cut, `saturated`), and INT4.
The inspector's answers are built after public ones. TensorRT 8 and 10: the developer guide ("Engine
Inspector") and NVIDIA/TensorRT issues 4020 and 4397 on GitHub. TensorRT 11: the migration guide
("Migrating IEngineInspector Usage"), which splits "Format/Datatype".
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.tools.plan.layers import EngineLayer, total
from vit_edge.runtime.tools.plan.listing import read_layers
from vit_edge.runtime.tools.plan.types import UNKNOWN

from .inspected import TEN, layer

LISTINGS = Path(__file__).parent / "listings"


def listed(name: str) -> tuple[EngineLayer, ...]:
    return read_layers((LISTINGS / f"{name}.txt").read_text())


class TestListing:
    def test_kinds(self) -> None:
        assert Counter(one.kind for one in listed("int8-together")) == {
            "elementwise": 17, "gemm": 10, "attention": 3, "fusion": 3, "dequantise": 2,
            "copy": 2, "convolution": 1,
        }  # fmt: skip

    def test_a_layer_has_all_that_the_line_has(self) -> None:
        (found,) = [one for one in listed("int8-saturated") if "fc1" in one.name][:1]
        assert (found.kind, found.stream) == ("gemm", 0)
        assert found.name.startswith("blocks.0.mlp.fc1/MatMul_")
        assert [(t.shape, t.dtype) for t in found.inputs] == [((1576, 768), "int8")]
        assert found.constants[0].shape == (768, 3072)
        assert [(t.shape, t.dtype) for t in found.outputs] == [((1576, 3072), "fp16")]
        assert "blocks.0.mlp.fc1/MatMul" in found.nodes
        assert found.macs == 1576 * 768 * 3072
        assert found.bytes == 1576 * 768 + 768 * 3072 + 4 + 4 + 2 * 1576 * 3072

    def test_what_dequantises_first_multiplies_in_16_bits(self) -> None:
        layers = listed("int8-together")
        qkv = [one for one in layers if "blocks.0.attn.qkv/MatMul" in one.nodes]
        assert [one.kind for one in qkv[:2]] == ["dequantise", "fusion"]
        assert qkv[1].precision == "fp16"
        (saturated,) = [one for one in listed("int8-saturated") if "0.attn.qkv" in one.name]
        assert (saturated.precision, saturated.weight_bits) == ("int8", 8)

    def test_weights_of_four_bits_multiply_in_16(self) -> None:
        fusions = [one for one in listed("int4") if one.kind == "fusion"]
        assert {(one.precision, one.weight_bits) for one in fusions} == {("fp16", 4), ("fp16", 16)}

    @pytest.mark.parametrize("name", ["int8-together", "int8-saturated", "int4"])
    def test_all_work_is_found(self, name: str) -> None:
        """The same model, whatever its kernels: patches, Linears, attention, head; one channel of
        the convolution's four is padding.
        """
        tokens, width = 8 * 197, 768
        block = tokens * 12 * width**2 + 2 * tokens * 197 * width
        last = tokens * 3 * width**2 + 8 * 9 * width**2 + 2 * tokens * width
        ends = 8 * 196 * 1024 * width + 8 * width * 1000
        assert total(one.macs for one in listed(name)) == 2 * block + last + ends

    def test_a_batch_that_is_not_known_leaves_work_unknown_and_types_known(self) -> None:
        text = (LISTINGS / "int8-saturated.txt").read_text().replace("1576", "-1")
        (found,) = [one for one in read_layers(text) if "blocks.0.mlp.fc2/MatMul_" in one.name]
        assert (found.macs, found.bytes, found.precision) == (None, None, "int8")

    def test_waits_launch_nothing(self) -> None:
        line = (
            "Name: entry^bb^wait^3_myl0_2, LayerType: wait, Inputs: [], Constants: [], "
            "Outputs: [], TacticName: , StreamId: 3, EventId: 9, Metadata: "
        )
        (found,) = read_layers(f"Layers:\n{line}")
        assert (found.kind, found.stream, found.is_kernel, found.bytes) == ("wait", 3, False, 0)

    def test_a_tensor_that_is_not_understood_is_an_error_and_not_left_out(self) -> None:
        text = (
            (LISTINGS / "int4.txt").read_text().replace("Dimensions: [1576,", "Dimensions: [1576, ")
        )
        with pytest.raises(EngineError, match="a tensor in the builder's listing"):
            read_layers(text)

    def test_a_line_that_is_not_understood_is_named(self) -> None:
        with pytest.raises(EngineError, match="not understood: 'Name: x, Kind: y'"):
            read_layers("Layers:\nName: x, Kind: y")


class TestInspector:
    def test_each_layer_has_its_precision(self) -> None:
        layers = read_layers(json.dumps(TEN))
        assert [one.precision for one in layers] == ["fp32", "int8", "fp16", "fp16"]
        assert [one.kind for one in layers] == ["copy", "gemm", "gemm", "attention"]
        assert layers[1].nodes == ("qkv/MatMul", "qkv/Add")
        assert layers[3].nodes == ("attn/MatMul", "attn/Softmax", "attn/MatMul_2")

    def test_eleven_writes_types_and_formats_apart(self) -> None:
        tensor = {"Name": "x", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}
        one = {"Name": "a", "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor]}
        described = {"Layers": [one], "I/O Tensors": [{"Name": "images", "DataType": "UInt8"}]}
        (found,) = read_layers(json.dumps(described))
        assert (found.inputs[0].dtype, found.precision) == ("fp16", "fp16")

    def test_layers_without_metadata_are_known_by_their_names(self) -> None:
        """TensorRT 8, and layers of Myelin that carry none."""
        described = {"Layers": [layer("a + b", "X", [], []), layer("c+d_myl0_7", "gemm", [], [])]}
        assert [one.nodes for one in read_layers(json.dumps(described))] == [("a", "b"), ("c", "d")]

    def test_unknown_formats_stay_unknown_unless_weights_tell(self) -> None:
        unknown = "N/A due to dynamic shapes"
        described = {
            "Layers": [
                layer("a", "Shuffle", [unknown], [unknown]),
                layer("b", "CaskConvolution", [unknown], [unknown], Weights={"Type": "Half"}),
                {"Name": "c", "Inputs": None},
            ]
        }
        found = read_layers(json.dumps(described))
        assert [one.precision for one in found] == [UNKNOWN, "fp16", UNKNOWN]

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": 3}', "no layers", "null"])
    def test_what_is_no_description_is_one_clear_error(self, text: str) -> None:
        with pytest.raises(EngineError, match="engine inspector answered"):
            read_layers(text)

    def test_an_engine_that_names_its_layers_only_is_told_what_to_do(self) -> None:
        with pytest.raises(EngineError, match="vit-edge build"):
            read_layers('{"Layers": ["qkv_myl0_7", "proj_myl0_9"], "Bindings": ["images"]}')
