"""Probability of a window of images by chance, if its images and the reference's are of one kind.

Then every choice of the window's images among all of them was equally likely (they are
*exchangeable*), whatever the distribution. A window whose sum of scores few choices exceed is
unlikely, and how few is a matter of counting: no normal distribution is assumed, ties are allowed,
and few images make wide limits by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_STEPS = 60
_CONVERGED = 1e-9
_NEAR = 1e-4
"""Distance from the mean, in standard deviations, at which the tail is taken for one half."""


@dataclass(frozen=True)
class WindowComparison:
    """A window beside the reference.

    Attributes:
        shift: Mean rank of the window's numbers less that of the reference's, ranks from 0 to 1:
            from -0.5 to 0.5, above 0 where they are greater.
        widening: The same of the ranks' distances from the middle, those from 0 to 1.
        probability: Of a window at least as different in either, under exchangeability.
    """

    shift: float
    widening: float
    probability: float


def compare_numbers(reference: NDArray[Any], window: NDArray[Any]) -> WindowComparison:
    """Compares numbers by their ranks: where they lie, and how far they spread."""
    ranks = midranks(np.concatenate([reference, window]))
    distances = np.abs(2 * ranks - 1)
    inside = np.arange(len(ranks)) >= len(reference)
    shift, widening = (
        float(scores[inside].mean() - scores[~inside].mean()) for scores in (ranks, distances)
    )
    both = [two_sided(scores, inside) for scores in (ranks, distances)]
    return WindowComparison(shift, widening, min(1.0, len(both) * min(both)))


def midranks(values: NDArray[Any]) -> Doubles:
    """Ranks between 0 and 1; equal values share the middle one of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Doubles = (ends - counts / 2) / len(values)
    return middle[inverse.reshape(-1)]


def two_sided(scores: Doubles, inside: NDArray[np.bool_]) -> float:
    """Probability that a random choice of as many scores as are `inside` has a mean at least as far
    out as theirs, on either side.
    """
    size, total = int(inside.sum()), float(scores[inside].sum())
    excess = total - size * float(scores.mean())
    if excess < 0:
        scores, total, excess = -scores, -total, -excess
    # Sums of tied scores come in steps: half of the widest is given away.
    steps = np.diff(np.unique(scores))
    total -= float(steps.max()) / 2 if len(steps) else 0.0
    return min(1.0, 2 * upper_tail(scores, size, total))


def upper_tail(scores: Doubles, size: int, total: float) -> float:
    """Probability that `size` of the scores, drawn without replacement, sum to `total` or more.

    The double saddlepoint approximation, within a few percent of the count far into the tail
    (Robinson, J. R. Statist. Soc. B 44, 1982; Skovgaard, J. Appl. Prob. 24, 1987). Where it has no
    solution, as at the greatest sum, an upper bound.
    """
    count = len(scores)
    variance = float(scores.var())
    if not 0 < size < count or variance == 0:
        return 1.0
    share = size / count
    deviation = math.sqrt(count * share * (1 - share) * variance)
    centre, scale = float(scores.mean()), math.sqrt(variance)
    target = (total - size * centre) / scale
    if target <= _NEAR * deviation / scale:
        return 0.5 if target > -_NEAR * deviation / scale else 1.0
    tilt = _Tilt((scores - centre) / scale, share, size, target)
    if not tilt.solve():
        return tilt.bound()
    exponent = max(tilt.exponent(), 1e-300)
    root = math.sqrt(2 * exponent)
    other = tilt.slope * math.sqrt(tilt.determinant() / (count * share * (1 - share)))
    adjusted = root + math.log(other / root) / root if other > 0 else root
    least = math.exp(-log_choose(count, size))  # of a single choice
    return min(1.0, max(0.5 * math.erfc(adjusted / math.sqrt(2)), least, 5e-324))


class _Tilt:
    """Independent draws of each score, tilted so that `size` of them are expected, with sum
    `target`.
    """

    def __init__(self, scores: Doubles, share: float, size: int, target: float) -> None:
        self._scores, self._share, self._size, self._target = scores, share, size, target
        self._base = math.log(share / (1 - share))
        self.slope = self._offset = 0.0

    def exponent(self) -> float:
        """Natural logarithm of the factor by which the tilted expectation makes it less likely."""
        powers = self.slope * self._scores + self._offset
        joint = np.logaddexp(math.log(1 - self._share), math.log(self._share) + powers).sum()
        return self.slope * self._target + self._offset * self._size - float(joint)

    def _moments(self) -> tuple[float, float, float, float, float]:
        """Distances from the expected sum and size, and the second derivatives."""
        odds = self.slope * self._scores + self._offset + self._base
        chances = 0.5 * (1 + np.tanh(odds / 2))
        spread = chances * (1 - chances)
        return (
            self._target - float(chances @ self._scores),
            self._size - float(chances.sum()),
            float(spread @ self._scores**2),
            float(spread @ self._scores),
            float(spread.sum()),
        )

    def determinant(self) -> float:
        _, _, second, mixed, plain = self._moments()
        return second * plain - mixed * mixed

    def solve(self) -> bool:
        """Finds the tilt by Newton's method, with shorter steps where a whole one would not help.
        False where there is none.
        """
        best = self.exponent()
        for _ in range(_STEPS):
            of_sum, of_size, second, mixed, plain = self._moments()
            determinant = second * plain - mixed * mixed
            if determinant <= 1e-12 * second * plain or not math.isfinite(determinant):
                return False
            if abs(of_sum) + abs(of_size) <= _CONVERGED * self._size:
                return self.slope > 0
            step = (plain * of_sum - mixed * of_size) / determinant
            move = (second * of_size - mixed * of_sum) / determinant
            start, before = (self.slope, self._offset), best
            for _ in range(_STEPS):
                self.slope, self._offset = start[0] + step, start[1] + move
                best = self.exponent()
                if best > before - 1e-12 * abs(before):
                    break
                step, move = step / 2, move / 2
        return False

    def bound(self) -> float:
        """An upper bound of the tail: Chernoff's, for any tilt, by the chance of the right size."""
        count, share = len(self._scores), self._share
        right_size = log_choose(count, self._size) + self._size * math.log(share)
        right_size += (count - self._size) * math.log(1 - share)
        return math.exp(min(0.0, -self.exponent() - right_size))


def log_choose(count: int, chosen: int) -> float:
    """Natural logarithm of the number of choices."""
    return math.lgamma(count + 1) - math.lgamma(chosen + 1) - math.lgamma(count - chosen + 1)


@dataclass(frozen=True)
class ShareChange:
    """The class whose share of the window is the least likely, and the probability that any of them
    is as unlikely, under exchangeability.
    """

    index: int
    share: float
    reference: float
    probability: float


def compare_classes(reference: NDArray[Any], window: NDArray[Any]) -> ShareChange:
    """Compares the shares of classes, int `[n]` and `[N]`, each by its hypergeometric
    distribution.
    """
    pooled = np.concatenate([reference, window]).astype(np.int64)
    classes, indices = np.unique(pooled, return_inverse=True)
    inside = np.bincount(indices[len(reference) :], minlength=len(classes))
    in_all = np.bincount(indices, minlength=len(classes))
    tails = [
        _share_tail(int(own), int(everywhere), len(window), len(pooled))
        for own, everywhere in zip(inside, in_all, strict=True)
    ]
    worst = int(np.argmin(tails))
    return ShareChange(
        int(classes[worst]),
        float(inside[worst] / len(window)),
        float((in_all[worst] - inside[worst]) / max(1, len(reference))),
        min(1.0, len(classes) * tails[worst]),
    )


def _share_tail(own: int, everywhere: int, size: int, count: int) -> float:
    """Two-sided probability of `own` of a class's `everywhere` images in a window of `size`."""
    above = own * count >= everywhere * size
    low, high = max(0, size - (count - everywhere)), min(size, everywhere)
    held = range(own, high + 1) if above else range(low, own + 1)
    whole = log_choose(count, size)
    logs = [
        log_choose(everywhere, k) + log_choose(count - everywhere, size - k) - whole for k in held
    ]
    return min(1.0, 2 * math.fsum(math.exp(each) for each in logs))
