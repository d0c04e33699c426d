"""Types of numbers, as TensorRT's enumerations, listings, engine inspector and kernels name them.

Source: listings of TensorRT for RTX 1.7; names in inspector output and build logs of TensorRT 8 to
11, in public issues and tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

UNKNOWN = "?"

_WORDS = {
    "bf16": r"bfloat16|bf16",
    "fp16": r"float16|half|fp16",
    "tf32": r"tf32",
    "fp32": r"float32|fp32|float",
    "fp8": r"fp8\w*|e4m3\w*|e5m2",
    "fp4": r"fp4\w*|e2m1\w*",
    "uint8": r"uint8",
    "int8": r"int8",
    "int4": r"int4",
    "int32": r"int32",
    "int64": r"int64",
    "bool": r"bool",
}
"""Each type with the words for it; where one word is part of another, the longer one is first."""

_BITS = {
    "int4": 4, "fp4": 4, "uint8": 8, "int8": 8, "fp8": 8, "bool": 8, "fp16": 16, "bf16": 16,
    "tf32": 32, "fp32": 32, "int32": 32, "int64": 64,
}  # fmt: skip
_NARROW_FIRST = ("int4", "fp4", "int8", "fp8", "fp16", "bf16", "tf32", "fp32")

_SHORT = {
    "tf32": "tf32",
    "bf16": "bf16",
    "f16": "fp16",
    "f32": "fp32",
    "i8": "int8",
    "u8": "int8",
    "i4": "int4",
    "f8": "fp8",
    "e4m3": "fp8",
    "e5m2": "fp8",
    "e2m1": "fp4",
}
_T = "|".join((*_SHORT, "i32"))
_KERNELS: tuple[tuple[re.Pattern[str], dict[str, str]], ...] = (
    # xmma: inputs_multiplyaccumulate_output, as gemm_i8f32_i8i32_f32 or gemm_f32f32_tf32f32_f32
    (re.compile(rf"_(?:{_T})+_({_T})(?:{_T})_"), _SHORT),
    # CUTLASS: a type for each operand, as s64x128x16gemm_f16_f16_f32, or one, as s1688tf32gemm
    (re.compile(rf"gemm_({_T})(?:_|$)"), _SHORT),
    (re.compile(r"(tf32)gemm"), _SHORT),
    # cuBLAS: ampere_fp16_s16816gemm, ampere_h16816gemm, turing_int8_i8816gemm, volta_sgemm; a
    # letter before digits is what it adds in
    (re.compile(r"_(fp16|bf16|tf32|int8)_[a-z]\d+\w*gemm"), {}),
    (re.compile(r"_(h|i)\d*(?:gemm|cudnn)"), {"h": "fp16", "i": "int8"}),
    (re.compile(r"_(s)(?:gemm|cudnn)"), {"s": "fp32"}),
)


def find_type(text: str) -> str:
    """The type that a description names, as "Row major linear FP16 format"; `UNKNOWN` if none."""
    for kind, words in _WORDS.items():
        if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", text.lower()):
            return kind
    return UNKNOWN


def bits(dtype: str) -> int | None:
    """Bits of a number of that type; None if it is not known."""
    return _BITS.get(dtype)


def kernel_type(name: str) -> str | None:
    """Returns the type that a kernel multiplies, by its name; None if that does not tell."""
    for pattern, names in _KERNELS:
        match = pattern.search(name)
        if match:
            return names.get(match.group(1), match.group(1))
    return None


def narrowest(kinds: Iterable[str]) -> str | None:
    """The narrowest type to compute in; None if there is none among them."""
    return next(_in_order(kinds, _NARROW_FIRST), None)


def widest(kinds: Iterable[str]) -> str | None:
    """The widest type to compute in; None if there is none among them."""
    return next(_in_order(kinds, _NARROW_FIRST[::-1]), None)


def _in_order(kinds: Iterable[str], order: Iterable[str]) -> Iterator[str]:
    present = set(kinds)
    return (kind for kind in order if kind in present)
