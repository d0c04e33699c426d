"""Table of the precisions. Each is a frozen dataclass with all its properties, in its own file."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from vit_edge.runtime.errors import InputError

from .base import Budget, Graphs, Precision, Ranks
from .bf16 import BF16
from .fp8 import FP8, FP8Attention
from .fp16 import FP16
from .fp32 import FP32
from .int4 import INT4
from .int8 import INT8, INT8Attention, Mixed
from .merged import MergedPrecision, merged_from
from .nvfp4 import NVFP4, NVFP4Weights
from .quantised import QuantisedPrecision

__all__ = [
    "DEFAULT_PRECISIONS",
    "PRECISIONS",
    "Budget",
    "Graphs",
    "MergedPrecision",
    "Precision",
    "QuantisedPrecision",
    "Ranks",
    "find_precision",
    "merged_forms",
    "tensors_to_observe",
]

PRECISIONS: dict[str, Precision] = {
    "fp32": FP32(),
    "fp16": FP16(),
    "bf16": BF16(),
    "int8": INT8(),
    "int8_attention": INT8Attention(),
    "mixed": Mixed(),
    "fp8": FP8(),
    "fp8_attention": FP8Attention(),
    "int4": INT4(),
    "nvfp4": NVFP4(),
    "nvfp4_weights": NVFP4Weights(),
    "int8_merged": merged_from("int8", INT8(), Ranks(cpu=1, gpu=6)),
    "fp16_merged": merged_from("fp16", FP16(), Ranks(cpu=4, gpu=6)),
}
DEFAULT_PRECISIONS = ("fp32", "fp16", "int8")


def find_precision(name: str) -> Precision:
    """The precision of that name. Raises InputError if there is none."""
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def merged_forms(name: str) -> tuple[str, ...]:
    """The precisions that merge tokens in the graphs of precision `name`."""
    rows = PRECISIONS.items()
    return tuple(n for n, p in rows if isinstance(p, MergedPrecision) and p.base == name)


def tensors_to_observe(graph: ir.Graph, precisions: Iterable[Precision]) -> tuple[str, ...]:
    """The tensors of the optimised fp32 graph that calibration must sample for all `precisions`."""
    return tuple(dict.fromkeys(name for p in precisions for name in p.observes(graph)))
