"""Naming: the names that a source gives its tensors, and its conventions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vit_edge.vit.hints import ModelHints

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.|net\.|backbone\.)+")
"""Prefixes that training frameworks put before every name."""
PART = "#"
"""`name#k` is part k of tensor `name`: queries, keys and values are parts of `qkv`."""


def keep_layout(name: str, tensor: Tensor) -> Tensor:
    return tensor


def no_hints(tensors: Mapping[str, Tensor]) -> ModelHints:
    return ModelHints()


@dataclass(frozen=True)
class Naming:
    """A source's names.

    Attributes:
        name: The source, in words.
        mark: A regular expression that a name of this source, and of no other, matches at its end.
        rules: Regular expressions for whole names, prefixes removed, and the model's names for
            them, which may end in `#k` (see `PART`).
        prefixes: Prefixes that may stand before every name.
        ignored: Regular expressions for tensors that are no part of the image model.
        convert: Brings a tensor, under its old name, to PyTorch's layout; a view where it can.
        read_hints: Reads hints from the tensors under their old names, beside the shapes that
            `vit.checkpoints.architecture` reads.
        conventions: Returns the source's usual hints, given the tensors under the model's names.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    convert: Callable[[str, Tensor], Tensor] = keep_layout
    read_hints: Callable[[Mapping[str, Tensor]], ModelHints] = no_hints
    conventions: Callable[[Mapping[str, Tensor]], ModelHints] = no_hints

    def recognises(self, names: list[str]) -> bool:
        return any(re.search(f"{self.mark}$", name) for name in names)

    def translate(self, name: str) -> str | None:
        """Returns the model's name; None for an ignored one; `name` itself if no rule knows it."""
        short = _WRAPPERS.sub("", name, count=1)
        short = next((short[len(p) :] for p in self.prefixes if short.startswith(p)), short)
        if any(re.fullmatch(pattern, short) for pattern in self.ignored):
            return None
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, short):
                return match.expand(replacement)
        return short
