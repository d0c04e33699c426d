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

from runtime.__main__ import main
from runtime.backends import BACKENDS, cuda
from runtime.backends.tensorrt import TensorRT, _logger
from runtime.backends.tensorrt_layers import (
    Layers,
    Product,
    asked_products,
    parse_layers,
    read_layers,
)
from runtime.backends.tensorrt_types import UNKNOWN, find_type, narrowest, of_kernel
from runtime.bundle import Bundle
from runtime.errors import EngineError
from runtime.manifest import EngineSpec

from .api import differences, recordings

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
SPEC = EngineSpec("images", "logits", (8, 8, 1), 10, (1, 2, 4))


def layer(name: str, kind: str, inputs: list[str], outputs: list[str], **more: Any) -> Any:
    """As TensorRT 10 describes a layer."""
    sides = {
        side: [{"Name": "t", "Dimensions": [1, 40, 256], "Format/Datatype": t} for t in types]
        for side, types in (("Inputs", inputs), ("Outputs", outputs))
    }
    return {"Name": name, "LayerType": kind, **sides, "StreamId": 0, **more}


INT8_KERNEL = (
    "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32"
)
HALF_KERNEL = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6_tensor16x8x16"
TEN = {
    "Layers": [
        layer(
            "Reformatting CopyNode for Input Tensor 0 to qkv",
            "Reformat",
            ["Row major linear FP32"],
            ["Row major Int8 format"],
            Metadata="",
        ),
        layer(
            "qkv_myl0_7",
            "gemm",
            ["Int8"],
            ["Half"],
            TacticName=INT8_KERNEL,
            Metadata="[ONNX Layer: qkv/MatMul]\x1f[ONNX Layer: qkv/Add]",
        ),
        layer(
            "proj_myl0_9",
            "gemm",
            ["Half"],
            ["Half"],
            TacticName=HALF_KERNEL,
            Metadata="[ONNX Layer: proj/MatMul][ONNX Layer: proj/Add]",
        ),
        layer(
            "_gemm_mha_v2_myl0_8",
            "kgen",
            ["Half", "Half"],
            ["Half"],
            TacticName="_gemm_mha_v2_0xbcebb264ff01c4c4f8078856729f8b7e",
            Metadata="[ONNX Layer: attn/MatMul]\x1f[ONNX Layer: attn/Softmax]\x1e"
            "[ONNX Layer: attn/MatMul_2]",
        ),
    ],
    "Bindings": ["images", "logits"],
}
ASKED = {
    "qkv/MatMul": "int8",
    "proj/MatMul": "int8",
    "attn/MatMul": "fp16",
    "attn/MatMul_2": "fp16",
    "head/Gemm": "fp16",
}


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


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP16 format", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major FP16 format where channel % 4 == 0", "fp16"),
        ("Half(64,1:8,...)", "fp16"),
        ("BFloat16", "bf16"),
        ("BF16", "bf16"),
        ("Float", "fp32"),
        ("UInt8", "uint8"),
        ("FP8", "fp8"),
        ("INT4", "int4"),
        ("Int32", "int32"),
        ("N/A due to dynamic shapes", UNKNOWN),
    ],
)
def test_types_are_known_by_their_words(text: str, kind: str) -> None:
    assert find_type(text) == kind


@pytest.mark.parametrize("api", recordings("tensorrt"), ids=lambda api: api.version)
def test_every_type_of_the_library_has_a_name(api: Any) -> None:
    names = [name for name in api.enum("DataType") if name != "E8M0"]  # scales, nothing else
    assert [name for name in names if find_type(name) == UNKNOWN] == []


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (HALF_KERNEL, "fp16"),
        (INT8_KERNEL, "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("sm75_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64", "fp16"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64", "tf32"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn", "fp32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "bf16"),
        ("sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32_tn_n", "fp8"),
        ("cutlass3x_sm90_tensorop_s64x128x32gemm_e4m3_e4m3_f32_bf16_bf16_64x128x128", "fp8"),
        ("cutlass3x_sm100_tensorop_s256x256x32gemm_f8_f8_f32_f16_f16", "fp8"),
        ("cutlass_75_tensorop_f16_s1688gemm_f16_256x128_nt_align8", "fp16"),
        ("cutlass_80_tensorop_s1688tf32gemm_256x128", "tf32"),
        ("ampere_fp16_s16816gemm_fp16_128x64", "fp16"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", "fp16"),
        ("trt_turing_h1688gemm_128x128_ldg8_relu_tn_v1", "fp16"),
        ("turing_int8_i8816gemm_int8_128x128", "int8"),
        ("volta_sgemm_128x64_nn", "fp32"),
        ("_gemm_mha_v2_0x865c16f51c59c6f8d5af8f4d8f92b6d0", None),
        ("__myl_AddCastMeanSubMulMeanAddSqrtDivMulCastMulAdd_0xf2543c36ff9f104b", None),
        ("", None),
    ],
)
def test_kernels_tell_what_they_multiply(kernel: str, kind: str | None) -> None:
    assert of_kernel(kernel) == kind


def test_the_narrowest_type_is_what_is_computed_in() -> None:
    assert narrowest(["fp32", "int8", "int64"]) == "int8"
    assert narrowest(["int64", "bool", UNKNOWN]) is None


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


class TestCommand:
    @pytest.fixture
    def device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TensorRT for RTX on a device that is there, with an engine that it describes as `TEN`."""
        monkeypatch.setattr(cuda, "device_problem", lambda: None)
        monkeypatch.setattr(cuda, "device_name", lambda: "Some GPU (8.9)")
        monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
        layers = Layers(parse_layers(json.dumps(TEN)), ASKED)
        monkeypatch.setattr(TensorRT, "layers", lambda self, *arguments: layers)

    @needs_rtx
    def test_a_table_and_what_became_of_the_products(
        self, device: None, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--layers", "--backend", "tensorrt-rtx", "--precision", "int8"]
        assert main(["inspect", str(bundle_source), *arguments]) == 0
        out = capsys.readouterr().out
        assert "int8 on tensorrt-rtx" in out
        assert "4 layers: fp16 50 %, fp32 25 %, int8 25 %" in out
        assert "3 of 5 matrix products run as the graph asks" in out
        assert "proj/MatMul: asked int8, runs in fp16" in out

    @needs_rtx
    def test_json_has_a_row_for_each_engine(
        self, device: None, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--layers", "--backend", "tensorrt-rtx", "--json"]
        assert main(["inspect", str(bundle_source), *arguments]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert {row["engine"] for row in rows} == {
            f"{p} on tensorrt-rtx" for p in ("fp32", "fp16", "int8")
        }
        assert rows[0]["products"][0] == {"node": "qkv/MatMul", "asked": "int8", "runs": "int8"}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--layers", "--backend", "onnxruntime"), "has no layers to tell of: TensorRT does"),
            (("--layers", "--precision", "fp7"), "no precision 'fp7'"),
            (("--precision", "fp16"), "go with --layers"),
        ],
    )
    def test_a_wrong_wish_is_one_line(
        self,
        bundle_source: Path,
        arguments: tuple[str, ...],
        says: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["inspect", str(bundle_source), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line

    def test_without_a_gpu_what_is_missing_is_said(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if RTX.run_problem() is None:
            pytest.skip("there is a GPU here")
        assert main(["inspect", str(bundle_source), "--layers"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no layers to show here: tensorrt: " in line
        assert "tensorrt-rtx: " in line
