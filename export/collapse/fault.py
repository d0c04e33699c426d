"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

EXPORT, STRUCTURE, FINITE, LOCAL, ANSWERS = "export", "structure", "finite", "local", "answers"
"""The checks: of the fp32 graph against PyTorch; of what the lowered graph is made of; for numbers
that are not finite; of each stretch of the lowered graph; of its answers against PyTorch's.
"""


@dataclass(frozen=True)
class Fault:
    """Something is broken.

    Attributes:
        check: Which check found it.
        module: Where, as `blocks.2.mlp`.
        tensor: The tensor where it shows.
        what: One sentence, with the number, the limit and, where it can be told, the likely cause.
    """

    check: str
    module: str
    tensor: str
    what: str

    def __str__(self) -> str:
        return f"{self.module} ({self.tensor}): {self.what}"
