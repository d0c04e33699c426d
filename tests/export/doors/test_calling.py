"""Any module is called as its users call it, and left as it was."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vit_edge.export.doors.calling import copy_module, name_outputs, try_module, weights_digest
from vit_edge.runtime.errors import InputError

from .models import SIDE, Tiny

SHAPE = (3, SIDE, SIDE)
A, B = torch.zeros(2, 3), torch.ones(2, 4)
Pair = namedtuple("Pair", "depth mask")


@dataclass
class Answer:
    boxes: Tensor
    scores: Tensor | None = None


@pytest.mark.parametrize(
    ("returned", "names", "others"),
    [
        (A, ["output"], []),
        ((A,), ["output"], []),
        ((A, None), ["output"], []),
        ((A, B), ["output_0", "output_1"], []),
        ([A, (B, B)], ["output_0"], ["output_1"]),
        ({"depth": A, "aux/one": B}, ["depth", "aux_one"], []),
        (OrderedDict(logits=A, hidden_states=(A, B)), ["logits"], ["hidden_states"]),
        (Pair(A, B), ["depth", "mask"], []),
        (Answer(A), ["boxes"], []),
    ],
)
def test_outputs_are_named_as_the_module_names_them(
    returned: Any, names: list[str], others: list[str]
) -> None:
    named = name_outputs(returned)
    assert (list(named.tensors), list(named.others)) == (names, others)


def test_what_is_no_output_is_refused() -> None:
    with pytest.raises(InputError, match="returns a str"):
        name_outputs("cat")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_copy_shares_nothing_and_the_module_stays_as_it_was(dtype: torch.dtype) -> None:
    module = Tiny().train().to(dtype)
    module.block.eval()
    module.head.weight.requires_grad_(False)
    module.scaled = module.head.weight * 2  # type: ignore[assignment] # made by autograd
    module.register_buffer("coarse", torch.ones(2, dtype=torch.float16))
    before = copy.deepcopy(module.state_dict())
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in module.modules()]
    clone = copy_module(module)
    tensors = [*clone.parameters(), *clone.buffers()]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert not any(m.training for m in clone.modules())
    for tensor in tensors:
        tensor.add_(1)
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [after[name].dtype for name in before] == [v.dtype for v in before.values()]
    now = [(m.training, [p.requires_grad for p in m.parameters()]) for m in module.modules()]
    assert now == flags


def test_shared_weights_stay_shared_and_wrappers_are_taken_off() -> None:
    module = Tiny()
    module.block.fc1.bias = nn.Parameter(module.block.fc1.bias[: 2 * 32])
    module.norm.weight = module.block.norm1.weight
    clone = copy_module(nn.DataParallel(module))
    assert isinstance(clone, Tiny)
    assert clone.norm.weight is clone.block.norm1.weight
    assert isinstance(copy_module(torch.compile(module)), Tiny)  # type: ignore[arg-type]


def test_weights_are_told_apart() -> None:
    one, other = Tiny(), Tiny()
    assert weights_digest(one) == weights_digest(other)
    other.head.bias.data[0] += 1e-6
    assert weights_digest(one) != weights_digest(other)


def test_modules_that_cannot_be_copied_are_refused() -> None:
    locked = Tiny()
    locked.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(InputError, match="cannot be copied"):
        copy_module(locked)
    with pytest.raises(InputError, match="the module is TorchScript"):
        copy_module(torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3)))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match="weights without values"):
        copy_module(nn.LazyLinear(3))
    with pytest.raises(InputError, match="weights without values"):
        copy_module(nn.Linear(3, 3, device="meta"))


def test_what_cannot_be_used_of_the_outputs_is_said() -> None:
    def answer(tokens: Tensor, logits: Tensor) -> Any:
        return {
            "logits": logits,
            "tokens": tokens,
            "all": (tokens, tokens),
            "best": logits.argmax(1),
            "scale": logits.mean(),
        }

    called = try_module(Tiny(answer).eval(), SHAPE)
    assert called.call.names == ("logits", "tokens")
    assert called.notes == (
        "left out: the output all: a tuple",
        "left out: the output best: int64",
        "left out: the output scale: [] for three images",
    )
    only = try_module(Tiny(answer).eval(), SHAPE, ["tokens"])
    assert only.call.names == ("tokens",)
    assert only.notes[-1] == "left out: the output logits: --output does not name it"
    with pytest.raises(InputError, match=r"the output best \(int64\) is no tensor of floating-poi"):
        try_module(Tiny(answer).eval(), SHAPE, ["best"])


def _by_chance(tokens: Tensor, logits: Tensor) -> Tensor:
    return nn.functional.dropout(logits, 0.5, training=True)


def _by_others(tokens: Tensor, logits: Tensor) -> Tensor:
    return logits - logits.mean(0)


@pytest.mark.parametrize(
    ("answer", "named"),
    [(_by_chance, "draws random numbers"), (_by_others, "changes with the other images")],
)
def test_outputs_that_depend_on_more_than_the_image_are_refused(
    answer: Callable[[Tensor, Tensor], Tensor], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        try_module(Tiny(answer).eval(), SHAPE)


def test_a_module_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(InputError, match=r"\[3, 3, 48, 48\] \(RuntimeError: The size of tensor a"):
        try_module(Tiny().eval(), (3, 48, 48))
    with pytest.raises(InputError, match=r"the model gives output \(\[\] for three images\)"):
        try_module(Tiny(lambda tokens, logits: logits.sum()).eval(), SHAPE)


def test_pixel_values_are_given_by_name() -> None:
    class TwoInputs(nn.Module):
        def forward(self, input_ids: Tensor | None = None, pixel_values: Any = None) -> Tensor:
            assert input_ids is None
            return pixel_values.mean((2, 3))  # type: ignore[no-any-return]

    assert try_module(TwoInputs(), SHAPE).call.names == ("output",)
