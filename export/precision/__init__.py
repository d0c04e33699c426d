"""The table of precisions. Each one is a file of its own with a `lower`."""

from __future__ import annotations

from runtime.errors import InputError

from .base import Budget, Graphs, Precision
from .bf16 import BF16
from .fp16 import FP16
from .fp32 import FP32
from .int8 import INT8

__all__ = ["DEFAULT_PRECISIONS", "PRECISIONS", "Budget", "Graphs", "Precision", "find_precision"]

PRECISIONS: dict[str, Precision] = {
    "fp32": FP32(),
    "fp16": FP16(),
    "bf16": BF16(),
    "int8": INT8(),
}
DEFAULT_PRECISIONS = ("fp32", "fp16", "int8")


def find_precision(name: str) -> Precision:
    """The precision of that name. Raises InputError if there is none."""
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
