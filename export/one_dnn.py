"""Linears of PyTorch by oneDNN, which comes with it: on CPUs that are not Intel's the library that
PyTorch chooses takes twice as long. The numbers are fp32's all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def linears_by_one_dnn() -> AbstractContextManager[object]:
    """Context in which inference computes its Linears by oneDNN, where this PyTorch has it."""
    has_it = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_it and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return _LinearsByOneDNN()
    return nullcontext()


class _LinearsByOneDNN(TorchFunctionMode):
    """Replaces `torch.nn.functional.linear` where its operands are plain fp32 tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and not torch.is_grad_enabled():
            operands = _operands(*args, **kwargs)
            if all(map(_is_plain, operands)):
                values, weight, bias = operands
                return torch.ops.mkldnn._linear_pointwise(
                    values.contiguous(), weight, bias, "none", [], ""
                )
        return func(*args, **kwargs)


def _operands(
    input: Tensor,  # noqa: A002 (PyTorch's name, which callers may use)
    weight: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _is_plain(value: Tensor | None) -> bool:
    if value is None:
        return True
    dense = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    return (
        dense
        and value.dtype == torch.float32
        and value.device.type == "cpu"
        and bool(len(value.shape))
    )
