"""The head of a model, where its source does not call it by a name of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vit_edge.runtime.errors import InputError

_PARTS = (
    "cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed", "blocks", "norm",
    "norm_pre", "fc_norm", "pre_logits", "head_dist",
)  # fmt: skip
"""Modules of a ViT that are no heads."""
_WORD = r"(?:\w*heads?(?:_\w+)?|fc|classifier|linear|last_linear|logits|cls|out|output|proj|\d+)"
_USUAL = re.compile(rf"{_WORD}(?:\.{_WORD})*")
"""Names that people give the Linear behind a backbone."""


@dataclass(frozen=True)
class Head:
    """The Linear that was taken as the head.

    Attributes:
        tensors: It, as head.weight and head.bias; empty where the model has its own, or none.
        used: Names of the tensors beside the model that it is made of.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    used: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def find_head(
    tensors: dict[str, Tensor],
    beside: Mapping[str, Tensor],
    source: str,
    key: str | None,
) -> Head:
    """Takes the only Linear on the features as the head, or the one that `key` names. Other heads
    are left out, and said; `tensors` loses them.

    Raises:
        InputError: if there are several and none is called head, or none is called `key`.
    """
    linears = _linears(tensors, beside)
    own = "head.weight" in tensors
    if key is not None:
        named = [name for name in linears if name == key or name.endswith(f".{key}")]
        if key == "head" and own:
            named = ["head"]
        if len(named) != 1:
            heads = [*(["head"] if own else []), *linears]
            there = f"; its heads are {', '.join(heads)}" if heads else ""
            raise InputError(f"{source} holds no weights or head called {key!r}{there}")
        return _take(named[0], linears, tensors, own, assumed=False)
    if own or "pre_logits.fc.weight" in tensors:
        return _take("head", linears, tensors, own, assumed=False) if linears else Head()
    if len(linears) > 1:
        sizes = ", ".join(f"{name} of {pair[0][1].shape[0]}" for name, pair in linears.items())
        raise InputError(
            f"{source} holds {len(linears)} heads ({sizes}): choose one with --checkpoint-key, as "
            f"--checkpoint-key {next(iter(linears))}"
        )
    if linears:
        return _take(next(iter(linears)), linears, tensors, own, assumed=True)
    return Head()


Linear = list[tuple[str, Tensor]]
"""Names and tensors of a weight and, where there is one, its bias."""


def _linears(tensors: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> dict[str, Linear]:
    """Finds Linears that read the features, alone in their module, by the module's name."""
    width = tensors["patch_embed.proj.weight"].shape[0]
    heads: dict[str, Linear] = {}
    for group, inside in ((tensors, True), (beside, False)):
        modules = defaultdict[str, list[str]](list)
        for name in group:
            if not inside or name.partition(".")[0] not in _PARTS:
                modules[name.rpartition(".")[0]].append(name)
        for module, names in modules.items():
            kinds = {name.rpartition(".")[2] for name in names}
            weight = group.get(f"{module}.weight")
            if weight is None or weight.ndim != 2 or not kinds <= {"weight", "bias"}:
                continue
            if weight.shape[1] not in (width, 2 * width) or (inside and module == "head"):
                continue
            if _is_one_of_several_layers(module, modules, group):
                continue
            if _USUAL.fullmatch(module):
                heads[module] = [(n, group[n]) for n in sorted(names, reverse=True)]
    return heads


def _is_one_of_several_layers(
    module: str, modules: Mapping[str, list[str]], tensors: Mapping[str, Tensor]
) -> bool:
    """Tells layers of a Sequential, as "head.0" beside "head.3", from a list of heads, which all
    read the features.
    """
    root, _, last = module.rpartition(".")
    if not last.isdecimal():
        return False
    width = tensors[f"{module}.weight"].shape[1]
    for other in modules:
        if (
            other != module
            and other.startswith(f"{root}." if root else "")
            and (root or other.isdecimal())
        ):
            weight = tensors.get(f"{other}.weight")
            if weight is None or weight.ndim != 2 or weight.shape[1] != width:
                return True
    return False


def _take(
    name: str, linears: dict[str, Linear], tensors: dict[str, Tensor], own: bool, assumed: bool
) -> Head:
    others = [other for other in linears if other != name]
    notes = []
    if others or (own and name != "head"):
        rest = [*(["head"] if own and name != "head" else []), *others]
        notes.append(f"{name} is the head; {', '.join(rest)} left out (--checkpoint-key {rest[0]})")
    for other in linears:
        for old, _ in linears[other]:
            tensors.pop(old, None)
    if name == "head" and own:
        return Head(notes=tuple(notes))
    tensors.pop("head.weight", None), tensors.pop("head.bias", None)
    pair = linears[name]
    return Head(
        {f"head.{old.rpartition('.')[2]}": tensor for old, tensor in pair},
        tuple(old for old, _ in pair),
        tuple(notes),
        (f"head {name} (the only Linear behind the features)",) if assumed else (),
    )
