"""Faults that the checks find, and the names of the checks."""

from __future__ import annotations

from dataclasses import dataclass

EXPORT, STRUCTURE, FINITE, LOCAL, OUTPUTS = "export", "structure", "finite", "local", "outputs"
"""The checks: of the fp32 graph against PyTorch; of what the lowered graph is made of; for numbers
that are not finite; of each segment of the lowered graph; of its outputs against PyTorch's.
"""


@dataclass(frozen=True)
class Fault:
    """Wrong part of a lowered graph.

    Attributes:
        check: The check that found it.
        module: The module, as `blocks.2.mlp`.
        tensor: The tensor where it shows.
        what: A sentence with the number, the limit and, where it can be told, the likely cause.
    """

    check: str
    module: str
    tensor: str
    what: str

    def __str__(self) -> str:
        return f"{self.module} ({self.tensor}): {self.what}"
