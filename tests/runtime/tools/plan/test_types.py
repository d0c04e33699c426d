from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.backends.api import recordings
from vit_edge.runtime.tools.plan.types import (
    UNKNOWN,
    bits,
    find_type,
    kernel_type,
    narrowest,
    widest,
)

from .inspected import HALF_KERNEL, INT8_KERNEL


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
        ("FP4E2M1", "fp4"),
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
    assert kernel_type(kernel) == kind


def test_types_have_an_order_and_a_size() -> None:
    assert narrowest(["fp32", "int8", "int64"]) == "int8"
    assert widest(["fp32", "int8", "int64"]) == "fp32"
    assert narrowest(["int64", UNKNOWN]) is widest([]) is None
    assert [bits(kind) for kind in ("int4", "fp8", "bf16", UNKNOWN)] == [4, 8, 16, None]
