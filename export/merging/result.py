"""Tokens that a merged precision merges, and the change of its outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Merging:
    """Tokens that a precision merges, and its outputs beside those of the one that merges none.

    Attributes:
        base: The precision that merges none.
        tokens: That each block merges.
        of: Tokens of an image, class and register tokens aside.
        work_saved: Share of the base's multiplications, 0 to 1.
        images: Those of evaluation that the next two are measured on.
        agreement: Share of decisions of the first output that are the base's; None for kinds of
            which nothing is decided.
        rms_error: Of the first output, relative to its scale.
    """

    base: str
    tokens: tuple[int, ...]
    of: int
    work_saved: float
    images: int
    agreement: float | None
    rms_error: float

    def __str__(self) -> str:
        schedule = " ".join(map(str, self.tokens))
        alike = f"error {self.rms_error:.2g} beside {self.base}"
        if self.agreement is not None:
            alike = f"{self.agreement:.2%} agreement with {self.base}"
        return (
            f"{sum(self.tokens)} of {self.of} tokens merged ({schedule}, block by block), "
            f"{self.work_saved:.0%} of {self.base}'s work saved, {alike}"
        )
