"""Naming: the names that a source gives its tensors, and its conventions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vit_edge.vit.hints import ModelHints

PART = "#"
"""`name#k` is part k of tensor `name`: queries, keys and values are parts of `qkv`."""


def keep_layout(name: str, tensor: Tensor) -> Tensor:
    """Returns a tensor whose layout is ours already."""
    return tensor


def no_hints(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Returns the hints of a source whose tensors give none beside their shapes."""
    return ModelHints()


@dataclass(frozen=True)
class Naming:
    """A source's names.

    Attributes:
        name: The source, in words.
        mark: A regular expression for the end of a name that this source, and no other, has once in
            each model. What stands before it is the prefix of the model's names.
        rules: Regular expressions for whole names, prefixes removed, and the model's names for
            them, which may end in `#k` (see `PART`).
        ignored: Regular expressions for tensors that are no part of the image model.
        convert: Brings a tensor, under its old name, to PyTorch's layout; a view where it can.
        read_hints: Reads hints from the tensors under their old names, beside the shapes that
            `vit.checkpoints.architecture` reads.
        conventions: Returns the source's usual hints, given the tensors under the model's names.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    convert: Callable[[str, Tensor], Tensor] = keep_layout
    read_hints: Callable[[Mapping[str, Tensor]], ModelHints] = no_hints
    conventions: Callable[[Mapping[str, Tensor]], ModelHints] = no_hints

    def translate(self, name: str) -> str | None:
        """Returns the model's name of one without its prefix; None for an ignored one; `name`
        itself if no rule knows it.
        """
        if any(re.fullmatch(pattern, name) for pattern in self.ignored):
            return None
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return name
