"""Finds the cheapest set of quantised layers to leave in higher precision until a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .sensitivity import Sensitivity

Prove = Callable[[tuple[str, ...]], str | None]
"""The problem in words when the layers of these names fall back; None if the budget holds."""


@dataclass(frozen=True)
class Fallback:
    """Layers that stay in higher precision so that a budget holds.

    Attributes:
        layers: Their names, in graph order.
        quantised_share: The share of the quantisable multiplications that is still quantised, 0 to
            1.
        reason: The reason in words.
    """

    layers: tuple[str, ...]
    quantised_share: float
    reason: str


def rank(sensitivities: Sequence[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Most error for the least work first: a fallback in this order costs the least speed.

    The squared error counts, because the errors of layers add up so. Ties go to the earlier one.
    """
    return tuple(sorted(sensitivities, key=lambda s: -(s.error**2) / max(s.cost, 1)))


def count_layers(layers: Sequence[str]) -> str:
    """`1 layer`, `2 layers`."""
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"


def find_fallback(
    sensitivities: Sequence[Sensitivity], problem: str, prove: Prove
) -> Fallback | None:
    """Finds the fewest layers, in the order of `rank`, that have to stay in higher precision.

    Their number is doubled until the budget holds, then bisected: `prove` is called about twice the
    logarithm of the number of layers. At least one layer stays quantised.

    Args:
        sensitivities: Of all layers, in graph order.
        problem: The measure that misses the budget when all are quantised, in words.
        prove: Tries a set of layers.

    Returns:
        None if the budget does not hold whatever falls back.
    """
    order = [s.layer for s in rank(sensitivities)]
    if len(order) < 2:
        return None
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
    layers = _in_graph_order(order[:holds], sensitivities)
    share = _quantised_share(layers, sensitivities)
    return Fallback(layers, share, _reason(layers, sensitivities, problem))


def _in_graph_order(names: Sequence[str], sensitivities: Sequence[Sensitivity]) -> tuple[str, ...]:
    return tuple(s.layer for s in sensitivities if s.layer in names)


def _quantised_share(fallback: Sequence[str], sensitivities: Sequence[Sensitivity]) -> float:
    total = sum(s.cost for s in sensitivities)
    return sum(s.cost for s in sensitivities if s.layer not in fallback) / max(total, 1)


def _reason(fallback: Sequence[str], sensitivities: Sequence[Sensitivity], problem: str) -> str:
    total = sum(s.error**2 for s in sensitivities)
    share = sum(s.error**2 for s in sensitivities if s.layer in fallback) / max(total, 1e-30)
    return (
        f"with all layers quantised {problem}; these {len(fallback)} of {len(sensitivities)} make "
        f"{share:.0%} of the squared error, and {_quantised_share(fallback, sensitivities):.0%} of "
        "the work stays quantised"
    )
