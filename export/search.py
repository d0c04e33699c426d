"""Finds the cheapest set of quantised parts to leave in higher precision until a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .sensitivity import Sensitivity

Prove = Callable[[tuple[str, ...]], str | None]
"""What misses the budget when the units of these names are raised; None if nothing does."""


@dataclass(frozen=True)
class Raised:
    """The outcome of a search.

    Attributes:
        units: The names of the units that stay in higher precision, in graph order.
        kept: The share of the quantisable multiplications that is still quantised, 0 to 1.
        reason: Why, in words.
    """

    units: tuple[str, ...]
    kept: float
    reason: str


def rank(sensitivities: Sequence[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Most error for the least work first: raising units in this order costs the least speed.

    The squared error counts, because the errors of the units add up so. Ties go to the earlier one.
    """
    return tuple(sorted(sensitivities, key=lambda s: -(s.error**2) / max(s.cost, 1)))


def count_parts(units: Sequence[str]) -> str:
    """`1 part`, `2 parts`."""
    return f"{len(units)} part{'' if len(units) == 1 else 's'}"


def search_raised(sensitivities: Sequence[Sensitivity], miss: str, prove: Prove) -> Raised | None:
    """The fewest units, in the order of `rank`, that have to be raised.

    Their number is doubled until the budget holds, then bisected: `prove` is called about twice the
    logarithm of the number of units. At least one unit stays quantised.

    Args:
        sensitivities: Of all units, in graph order.
        miss: What misses the budget when none is raised.
        prove: Tries a set of units.

    Returns:
        None if the budget does not hold whatever is raised.
    """
    order = [s.unit for s in rank(sensitivities)]
    most, fails, holds = len(order) - 1, 0, 0
    while holds == 0:
        if fails == most:
            return None
        count = min(max(1, 2 * fails), most)
        if prove(_in_graph_order(order[:count], sensitivities)) is None:
            holds = count
        else:
            fails = count
    while holds - fails > 1:
        middle = (fails + holds) // 2
        if prove(_in_graph_order(order[:middle], sensitivities)) is None:
            holds = middle
        else:
            fails = middle
    units = _in_graph_order(order[:holds], sensitivities)
    return Raised(units, _kept(units, sensitivities), _reason(units, sensitivities, miss))


def _in_graph_order(names: Sequence[str], sensitivities: Sequence[Sensitivity]) -> tuple[str, ...]:
    return tuple(s.unit for s in sensitivities if s.unit in names)


def _kept(units: Sequence[str], sensitivities: Sequence[Sensitivity]) -> float:
    total = sum(s.cost for s in sensitivities)
    return sum(s.cost for s in sensitivities if s.unit not in units) / max(total, 1)


def _reason(units: Sequence[str], sensitivities: Sequence[Sensitivity], miss: str) -> str:
    total = sum(s.error**2 for s in sensitivities)
    share = sum(s.error**2 for s in sensitivities if s.unit in units) / max(total, 1e-30)
    kept = _kept(units, sensitivities)
    return (
        f"with all parts quantised {miss}; these {len(units)} of {len(sensitivities)} make "
        f"{share:.0%} of the squared error, and {kept:.0%} of the work stays quantised"
    )
