"""Linears by oneDNN: the same numbers, and PyTorch's own where oneDNN does not apply."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from vit_edge.export.reference import linears_by_one_dnn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


def _run(call: Callable[[], Tensor]) -> tuple[Tensor, set[str]]:
    """The result under the context, and the operators that ran."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled, linears_by_one_dnn():
        result = call()
    return result, {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 7, 48), (2, 3, 4, 48), (0, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_numbers(shape: tuple[int, ...], bias: bool) -> None:
    linear, values = nn.Linear(48, 24, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        result, operators = _run(lambda: linear(values))
        torch.testing.assert_close(result, linear(values), rtol=1e-5, atol=1e-5)
    assert "mkldnn::_linear_pointwise" in operators


def test_strided_operands_and_named_ones() -> None:
    values, weight = torch.randn(6, 4, 48).transpose(0, 1), torch.randn(48, 24).T
    with torch.inference_mode():
        result, _ = _run(lambda: functional.linear(input=values, weight=weight))
        torch.testing.assert_close(result, values @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_stay_with_pytorch(dtype: torch.dtype) -> None:
    linear, values = nn.Linear(48, 24, dtype=dtype), torch.randn(5, 48, dtype=dtype)
    with torch.inference_mode():
        result, operators = _run(lambda: linear(values))
        assert torch.equal(result, linear(values))
    assert "mkldnn::_linear_pointwise" not in operators


def test_gradients_stay_with_pytorch() -> None:
    linear = nn.Linear(48, 24)
    result, operators = _run(lambda: linear(torch.randn(5, 48)))
    result.sum().backward()
    assert linear.weight.grad is not None
    assert "mkldnn::_linear_pointwise" not in operators
