"""The layers of an engine, as its builder or its inspector lists them, and the work of each.

Source: the listing "Layers:" that TensorRT logs when it builds with detailed profiling verbosity.
It has no specification: whatever is not as expected is `UNKNOWN` or None, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from .types import UNKNOWN, bits, kernel_type, narrowest, widest

GEMM, FUSION, ATTENTION, CONVOLUTION = "gemm", "fusion", "attention", "convolution"
ELEMENTWISE, COPY, DEQUANTISE = "elementwise", "copy", "dequantise"
WAIT, SHAPE = "wait", "shape"
PRODUCTS = (GEMM, FUSION, CONVOLUTION)
"""Kinds that multiply matrices outside attention; a fusion does more in the same kernel."""
NOT_KERNELS = (WAIT, SHAPE)
"""Kinds that launch nothing on the GPU."""
KINDS = (*PRODUCTS, ATTENTION, ELEMENTWISE, COPY, DEQUANTISE, *NOT_KERNELS)
_MAX_RANK, _MAX_SIZE = 16, 1 << 40

_UNSPECIFIED = -1


@dataclass(frozen=True)
class EngineTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        name: The builder's name for it.
        shape: -1 for a size that depends on the batch.
        dtype: As `types.py` names it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        sizes = [1 if size == _UNSPECIFIED else size for size in self.shape]
        if len(sizes) > _MAX_RANK or not all(0 < size <= _MAX_SIZE for size in sizes):
            raise ValueError(f"a tensor of shape {str(self.shape)[:80]} is not possible")
        if math.prod(sizes) > _MAX_SIZE:
            raise ValueError(f"a tensor of shape {self.shape} is too large")

    @property
    def elements(self) -> int | None:
        """Their number; None where it depends on the batch."""
        return None if _UNSPECIFIED in self.shape else math.prod(self.shape)

    @property
    def bytes(self) -> float | None:
        """Size in memory; None where it depends on the batch or the type is unknown."""
        size = bits(self.dtype)
        return None if self.elements is None or size is None else self.elements * size / 8


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine.

    Attributes:
        name: The builder's name for it.
        kind: One of this module's kinds.
        inputs, outputs: Activations that it reads and writes.
        constants: Weights and other constants that it reads.
        nodes: The nodes of the ONNX graph that it does the work of.
        kernel: The kernel's name, or "".
        stream: The CUDA stream that it is queued on.
    """

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    nodes: tuple[str, ...]
    kernel: str
    stream: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not self.nodes:
            raise ValueError(f"a layer of kind {self.kind[:40]!r} or without nodes is not possible")

    @property
    def is_kernel(self) -> bool:
        """True if it launches something on the GPU."""
        return self.kind not in NOT_KERNELS

    @property
    def multiplies(self) -> bool:
        """True if it multiplies matrices outside attention."""
        return self.kind in PRODUCTS

    @cached_property
    def operands(self) -> tuple[EngineTensor, EngineTensor] | None:
        """The two matrices that it multiplies; None for another kind, or if they are not told."""
        if self.kind == CONVOLUTION and self.outputs:
            return next(
                ((x, w) for x in self.inputs for w in self.constants if len(w.shape) == 4), None
            )
        if self.kind not in (GEMM, FUSION) or not self.outputs:
            return None
        matrices = [t for t in (*self.inputs, *self.constants) if len(t.shape) > 1]
        pairs = permutations(matrices, 2)
        return next((p for p in pairs if _multiply(*p, self.outputs[0])), None)

    @property
    def precision(self) -> str:
        """Type that it computes in.

        Of matrix products the type that the kernel's name tells, else the widest of their
        operands, to which the others are converted. Of anything else the narrowest of its inputs,
        constants or outputs.
        """
        named = kernel_type(self.kernel)
        if named is not None:
            return named
        if self.operands is not None:
            return widest(t.dtype for t in self.operands) or UNKNOWN
        if self.kind == ATTENTION:
            return widest(t.dtype for t in self.inputs) or UNKNOWN
        sides = (self.inputs, self.constants, self.outputs)
        kinds = (narrowest(t.dtype for t in side) for side in sides)
        return next((kind for kind in kinds if kind), UNKNOWN)

    @property
    def weight_bits(self) -> int | None:
        """Bits of a weight of its matrix product; None if it has none."""
        operands = self.operands
        return bits(operands[1].dtype) if operands and operands[1] in self.constants else None

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of its matrix products; None where they depend on the batch."""
        if self.kind == ATTENTION:
            return _attention_macs(self)
        if self.operands is None:
            return None if self.multiplies else 0
        size = self.outputs[0].elements
        second = self.operands[1].shape
        depth = math.prod(second[1:]) if self.kind == CONVOLUTION else _depth(*self.operands)
        return None if size is None or depth < 0 else size * depth

    @property
    def bytes(self) -> float | None:
        """Bytes that it reads and writes, each tensor once; None where they depend on the batch."""
        if not self.is_kernel:
            return 0.0
        return total(tensor.bytes for tensor in {*self.inputs, *self.constants, *self.outputs})


def total(numbers: Iterable[float | None]) -> float | None:
    """Their sum; None if one is None."""
    sum_ = 0.0
    for number in numbers:
        if number is None:
            return None
        sum_ += number
    return sum_


def kernels(layers: Sequence[EngineLayer]) -> Iterator[EngineLayer]:
    """The layers that launch something on the GPU."""
    return (layer for layer in layers if layer.is_kernel)


def _multiply(first: EngineTensor, second: EngineTensor, product: EngineTensor) -> bool:
    """Returns whether `product` can be `first` `[..., M, K]` times `second` `[..., K, N]`."""
    if len(product.shape) < 2 or first.shape[-1] != second.shape[-2]:
        return False
    if second.shape[-1] != product.shape[-1] or second.shape[-1] == _UNSPECIFIED:
        return False
    sizes = first.elements, product.elements
    if sizes[0] is None or sizes[1] is None:
        return True
    return sizes[0] * product.shape[-1] == sizes[1] * first.shape[-1]


def _depth(first: EngineTensor, second: EngineTensor) -> int:
    """K of a matrix product."""
    return max(first.shape[-1], second.shape[-2])


def _attention_macs(layer: EngineLayer) -> int | None:
    """Of fused attention: queries times keys, and weights times values.

    Its inputs are queries, keys and values apart, or all three in one tensor; its output is
    `[B heads, queries, size]`.
    """
    if not layer.inputs or not layer.outputs:
        return None
    apart = len(layer.inputs) >= 3
    values = layer.inputs[2].elements if apart else layer.inputs[0].elements
    output = layer.outputs[0].shape
    if values is None or _UNSPECIFIED in output or len(output) < 3:
        return None
    return 2 * (values if apart else values // 3) * output[-2]
