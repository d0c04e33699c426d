"""Finds the cheapest set of quantised layers to leave in higher precision so that a budget holds.

A fault of the check for collapse names its module: the layers there fall back first. If a budget is
missed, or that does not help, layers fall back in the order of their sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .sensitivity import Sensitivity

_ROUNDS = 5
"""Most rounds in which the layers named by the remaining faults are added."""


@dataclass(frozen=True)
class Problem:
    """The reason why a precision is not good, in words, and the modules that faults name."""

    words: str
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.words


Prove = Callable[[tuple[str, ...]], Problem | None]
"""Gives the problem that is left if the layers of these names fall back; None if there is none."""


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
    """Sorts layers by squared error per multiplication, largest first: a fallback in this order
    costs the least speed.

    The error is squared because squared errors of layers add up. Ties keep their order.
    """
    return tuple(sorted(sensitivities, key=lambda s: -(s.error**2) / max(s.cost, 1)))


def count_layers(layers: Sequence[str]) -> str:
    """Returns `1 layer`, `2 layers` and so on."""
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"


def find_fallback(
    sensitivities: Sequence[Sensitivity], problem: Problem, prove: Prove
) -> Fallback | None:
    """Finds a few layers that have to stay in higher precision: those that faults name, or else the
    fewest in the order of `rank`.

    The number of the latter is doubled until the budget holds, then bisected: the calls of `prove`
    are about twice the binary logarithm of the number of layers. At least one stays quantised.

    Args:
        sensitivities: Of all layers, in graph order.
        problem: The problem when all are quantised.
        prove: Tries a set of layers.

    Returns:
        None if no fallback that was tried solves the problem.
    """
    layers = _find_named(sensitivities, problem, prove) or _find_ranked(sensitivities, prove)
    if layers is None:
        return None
    share = _quantised_share(layers, sensitivities)
    return Fallback(layers, share, _reason(layers, sensitivities, problem.words))


def _find_named(
    sensitivities: Sequence[Sensitivity], problem: Problem, prove: Prove
) -> tuple[str, ...] | None:
    """Adds the layers that the faults name, as long as they name new ones."""
    left: Problem | None = problem
    chosen = list[str]()
    for _ in range(_ROUNDS):
        assert left is not None
        new = [s.layer for s in sensitivities if s.layer not in chosen and _names(left, s.layer)]
        if not new or len(chosen) + len(new) >= len(sensitivities):
            return None
        chosen += new
        layers = _in_graph_order(chosen, sensitivities)
        left = prove(layers)
        if left is None:
            return layers
    return None


def _names(problem: Problem, layer: str) -> bool:
    """True if a module that a fault names is the layer, or contains it."""
    parts = layer.split(" + ")
    return any(p == m or p.startswith(f"{m}.") for m in problem.modules for p in parts)


def _find_ranked(sensitivities: Sequence[Sensitivity], prove: Prove) -> tuple[str, ...] | None:
    """The fewest layers in the order of `rank`."""
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
    return _in_graph_order(order[:holds], sensitivities)


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
        "the work keeps its precision"
    )
