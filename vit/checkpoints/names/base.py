"""What a naming is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vit_edge.vit.facts import Facts

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.|net\.|backbone\.)+")
"""What training frameworks put before every name."""
PART = "#"
"""`name#k` is part k of tensor `name`: queries, keys and values are parts of `qkv`."""


def as_it_is(name: str, tensor: Tensor) -> Tensor:
    return tensor


def nothing(tensors: Mapping[str, Tensor]) -> Facts:
    return Facts()


@dataclass(frozen=True)
class Naming:
    """A source's names.

    Attributes:
        name: The source, in words.
        mark: A regular expression that a name of this source, and of no other, matches at its end.
        rules: Regular expressions for whole names, prefixes removed, and the model's names for
            them, which may end in `#k` (see `PART`).
        prefixes: What may stand before every name.
        ignored: Regular expressions for tensors that are no part of the image model.
        convert: Brings a tensor, under its old name, to PyTorch's layout; a view where it can.
        read_facts: What the tensors, under their old names, tell beside the shapes that
            `vit.checkpoints.architecture` reads.
        conventions: What the source usually means, given the tensors under the model's names.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    convert: Callable[[str, Tensor], Tensor] = as_it_is
    read_facts: Callable[[Mapping[str, Tensor]], Facts] = nothing
    conventions: Callable[[Mapping[str, Tensor]], Facts] = nothing

    def recognises(self, names: list[str]) -> bool:
        return any(re.search(f"{self.mark}$", name) for name in names)

    def translate(self, name: str) -> str | None:
        """The model's name for `name`; None for what is ignored; `name` itself if no rule knows
        it.
        """
        short = _WRAPPERS.sub("", name, count=1)
        short = next((short[len(p) :] for p in self.prefixes if short.startswith(p)), short)
        if any(re.fullmatch(pattern, short) for pattern in self.ignored):
            return None
        for pattern, replacement in self.rules:
            if found := re.fullmatch(pattern, short):
                return found.expand(replacement)
        return short
