"""Choice of the weights to take from a file that may hold several copies of a model.

Where a model begins is seen by its patch embedding: whatever stands before that tensor's known name
is a prefix, whoever put it there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vit_edge.runtime.errors import InputError

from .architecture import OTHER_DOORS
from .checkpoint import RawCheckpoint
from .names import NAMINGS, Naming

_PREFERENCE = (
    ("ema", "teacher", "averaged", "average", "avg", "swa", "shadow"),
    ("online", "base"),
    ("target",),
    (),
    ("student",),
    ("momentum", "old", "previous", "prev"),
)
"""Words of copies, the preferred first; () is any other. timm, DeiT, DINO and DINOv2 evaluate the
averaged weights, MoCo and BYOL those that averaging follows, I-JEPA its target."""
_PLAIN = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "network",
    "net",
)
"""Copies of equal rank, in timm's order."""
_OPTIMISERS = ("optimizer", "optimizers", "optim", "optimizer_states", "opt", "opt_state")
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Components that say nothing: trainers and compilers put them before every name."""


@dataclass(frozen=True)
class ChosenWeights:
    """The copy that is taken.

    Attributes:
        prefix: What stands before its tensors' names, as "state_dict.module.".
        others: Prefixes of the copies that are not.
        rivals: Keys of those, for the user.
    """

    naming: Naming
    prefix: str
    others: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return key_of(self.prefix)


def find_copies(names: Sequence[str]) -> list[ChosenWeights]:
    """Lists the models in a file by the naming and the prefix of each."""
    copies: dict[str, ChosenWeights] = {}
    for naming in NAMINGS.values():
        mark = re.compile(rf"(?:^|(?<=[./])){naming.mark}$")
        for name in names:
            if match := mark.search(name):
                prefix = name[: match.start()]
                if not _is_optimisers(prefix):
                    copies.setdefault(prefix, ChosenWeights(naming, prefix))
    return list(copies.values())


def choose(raw: RawCheckpoint, key: str | None) -> ChosenWeights:
    """Takes the copy that `key` names, or else the one that the field's loaders take.

    Raises:
        InputError: if there is none, none of that name, or none that is preferred.
    """
    copies = _without_twins(find_copies(list(raw.tensors)), raw.tensors)
    if not copies:
        names = sorted(raw.tensors)
        raise InputError(
            f"{raw.source} does not look like a ViT of {', '.join(NAMINGS)}: no patch embedding is "
            f"among its {len(names)} tensors ({listed(names)}). If it is whole, {OTHER_DOORS}"
        )
    named = [copy for copy in copies if key is not None and matches(copy.prefix, key)]
    if len(named) > 1:
        exact = [copy for copy in named if copy.key == key]
        named = exact if len(exact) == 1 else named
    ranked = sorted(named or copies, key=lambda copy: rank(copy.prefix))
    if len(ranked) > 1 and rank(ranked[0].prefix) == rank(ranked[1].prefix):
        equal = [copy.key for copy in ranked if rank(copy.prefix) == rank(ranked[0].prefix)]
        raise InputError(
            f"{raw.source} holds {len(copies)} models ({', '.join(equal)}), and none is usually "
            f"preferred: choose one with --checkpoint-key, as --checkpoint-key {equal[0]}"
        )
    others = [copy for copy in copies if copy is not ranked[0]]
    return ChosenWeights(
        ranked[0].naming,
        ranked[0].prefix,
        tuple(copy.prefix for copy in others),
        tuple(copy.key for copy in others),
    )


def key_of(prefix: str) -> str:
    """Returns a prefix as users name it: without wrappers that say nothing."""
    parts = [part for part in _parts(prefix) if part not in _WRAPPERS]
    return ".".join(parts) or prefix.strip("./") or "the top"


def is_copy(key: str, choice: ChosenWeights) -> bool:
    """Tells whether `key` names the chosen copy."""
    return matches(choice.prefix, key)


def nearest(name: str, prefix: str) -> str:
    """Returns the longest part of `prefix` that `name` shares, whole components only."""
    shared, rest = "", prefix
    while match := re.match(r"[^./]+[./]", rest):
        if not name.startswith(shared + match[0]):
            break
        shared, rest = shared + match[0], rest[match.end() :]
    return shared


def listed(items: list[str], shown: int = 10) -> str:
    """Joins the first ten, and counts the rest."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def _parts(prefix: str) -> list[str]:
    return [part for part in re.split(r"[./]", prefix) if part]


def _is_optimisers(prefix: str) -> bool:
    """Tells moments of an optimiser, which bear the weights' names; flax kept weights there too."""
    parts = _parts(prefix)
    return any(part in _OPTIMISERS for part in parts) and "target" not in parts


def matches(prefix: str, key: str) -> bool:
    """Tells whether the components of `key` follow each other in `prefix`."""
    parts, asked = _parts(prefix), _parts(key)
    starts = range(len(parts) - len(asked) + 1)
    return bool(asked) and any(parts[i : i + len(asked)] == asked for i in starts)


def rank(prefix: str) -> tuple[int, int]:
    """Returns the place of a copy in the order of preference, lowest first."""
    parts = _parts(prefix)
    words = {word for part in parts for word in part.split("_")}
    plain = _PREFERENCE.index(())
    preference = next((i for i, known in enumerate(_PREFERENCE) if words & {*known}), plain)
    order = next((i for i, name in enumerate(_PLAIN) if name in parts), len(_PLAIN))
    return preference, order


def _without_twins(
    copies: Iterable[ChosenWeights], tensors: dict[str, Tensor]
) -> list[ChosenWeights]:
    """Leaves out copies whose tensors are those of another under a second name."""
    unique: dict[tuple[int, ...], ChosenWeights] = {}
    for copy in copies:
        own = [t for name, t in tensors.items() if name.startswith(copy.prefix)]
        memory = [t.data_ptr() for t in own if not t.is_meta and t.layout == torch.strided]
        unique.setdefault((*memory, id(copy) if not any(memory) else 0), copy)
    return list(unique.values())
