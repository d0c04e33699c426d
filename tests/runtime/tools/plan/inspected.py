"""What an engine inspector tells of a small ViT's engine, built after public answers."""

from __future__ import annotations

from typing import Any

from vit_edge.runtime.backends.base import AskedProduct


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
ASKED = (
    AskedProduct("qkv/MatMul", ("INT8", "INT8"), True),
    AskedProduct("attn/MatMul", ("HALF", "HALF"), False),
    AskedProduct("attn/MatMul_2", ("HALF", "HALF"), False),
    AskedProduct("proj/MatMul", ("INT8", "INT8"), True),
    AskedProduct("head/Gemm", ("HALF", "HALF"), True),
)
