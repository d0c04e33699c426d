"""Kernels of a call of an engine, by the kind of work that they do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

PRODUCTS = {bits: f"{bits}-bit products" for bits in (4, 8, 16, 32)}
"""Kinds of matrix products with weights, by the bits of the numbers that they multiply."""
CASTS = "quantise, dequantise, cast"
ELEMENTWISE = "attention, norms, elementwise"
MOVES = "transposes, reorders, copies"
LAUNCHES = "launches"
OTHER = "other"
KINDS = (*PRODUCTS.values(), CASTS, ELEMENTWISE, MOVES, LAUNCHES, OTHER)

_NAMED = 0.8
"""Share of the kernels whose names have to tell the block that they belong to."""
_INSERTED = "InsertedPrecisionFreeCast_"
"""ONNX Runtime's mark of what it computes in more bits than the graph asks."""
_BLOCK = re.compile(r"(?:.{0,200}?[./])?\d{1,4}(?=[./])")


@dataclass(frozen=True)
class Kernel:
    """A kernel, or a node of a CPU's graph that runs as one.

    Attributes:
        name: With that of the layer in it, where the library keeps it.
        kind: One of `KINDS`.
        microseconds: In one call.
    """

    name: str
    kind: str
    microseconds: float


def product_kind(bits: int) -> str:
    """The kind of a matrix product of numbers of so many bits; wider than 32 counts as 32."""
    return PRODUCTS[next((known for known in PRODUCTS if bits <= known), 32)]


def product_bits(kind: str) -> int | None:
    """The bits of a kind of matrix products; None for what is no such kind."""
    return next((bits for bits, name in PRODUCTS.items() if name == kind), None)


def shares(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Each kind's share of the time, of the kinds that take any."""
    whole = sum(kernel.microseconds for kernel in kernels)
    if whole <= 0:
        return {}
    times = Counter[str]()
    for kernel in kernels:
        times[kernel.kind] += kernel.microseconds  # type: ignore[assignment]  # counts times
    return {kind: times[kind] / whole for kind in KINDS if times[kind] > 0}


def per_block(names: Sequence[str]) -> float | None:
    """Median number of kernels of a block, by the blocks that their names tell; None where many
    names tell none, or fewer than two blocks are told.
    """
    counts = Counter(match[0] for match in map(_BLOCK.match, names) if match)
    if len(counts) < 2 or counts.total() < _NAMED * len(names):
        return None
    return float(median(counts.values()))


def layer_name(kernel: str) -> str:
    """The layer that a kernel's name tells: "blocks.0.attn.qkv/MatMul" -> "blocks.0.attn.qkv"."""
    layer, _, operator = kernel.removeprefix(_INSERTED).partition("/")
    return layer if layer and operator[:1].isupper() else kernel


def quiet_means(calls: Sequence[Sequence[float]]) -> list[float]:
    """Mean time of each kernel without the quarter of the calls in which it took longest, and that
    in which it took least.

    On a busy machine a call now and then waits for its core in the midst of a kernel, which would
    seem to be the slow one.

    Args:
        calls: The times of each call's kernels, in the same order.
    """
    times = np.sort(np.asarray(calls, np.float64), axis=0)
    edge = len(times) // 4
    means: list[float] = times[edge : len(times) - edge].mean(axis=0).tolist()
    return means
