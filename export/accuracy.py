"""A precision's logits against PyTorch's, and whether they are within budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.manifest import LOGITS, Accuracy
from vit_edge.runtime.metrics import compare_logits

from .precision import Budget

_Z95 = 1.959964
TOLERANCE_FACTOR, TOLERANCE_FLOOR = 4.0, 1e-3
"""How much further from PyTorch than measured here a device may be on the golden samples (relative
RMS).
"""


@dataclass(frozen=True)
class Reference:
    """PyTorch's fp32 answers: logits float32 `[N, outputs]`, labels int64 `[N]` or None.

    `golden` are the positions of the golden samples among them; `output` says whether the answers
    are logits or features, of which no class can be read.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    golden: NDArray[np.int64]
    output: str = LOGITS


@dataclass(frozen=True)
class Proof:
    """A graph's accuracy, and what a device may deviate on the golden samples."""

    accuracy: Accuracy
    rms_tolerance: float


def assess(logits: NDArray[np.float32], reference: Reference, measured_on: str) -> Accuracy:
    """Compares logits with the reference; `measured_on` says what computed them."""
    metrics = compare_logits(logits, reference.logits, reference.labels)
    drop = low = high = None
    if reference.labels is not None:
        expected = reference.logits.argmax(axis=1) == reference.labels
        got = (logits.argmax(axis=1) == reference.labels) & np.isfinite(logits).all(axis=1)
        lost, won = int((expected & ~got).sum()), int((~expected & got).sum())
        drop = 100 * (lost - won) / len(got)
        low, high = paired_interval(lost, won, len(got))
    return Accuracy(
        images=len(logits),
        top1=metrics.top1,
        reference_top1=metrics.reference_top1,
        drop=drop,
        drop_low=low,
        drop_high=high,
        agreement=metrics.agreement if reference.output == LOGITS else None,
        cosine=metrics.cosine,
        logit_error=_finite(metrics.logit_error),
        rms_error=_finite(metrics.rms_error),
        measured_on=measured_on,
    )


def _finite(value: float) -> float:
    """JSON has no infinity."""
    return value if math.isfinite(value) else 1e30


def paired_interval(lost: int, won: int, images: int) -> tuple[float, float]:
    """95 % interval of the drop in percentage points, from the images that only one of the two gets
    right.

    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
        proportions", Statistics
    in Medicine 24 (2005): Wald's interval with half an image added to each of the four cells.
    Without it, no flip in a small set would pass for certainty.
    """
    n, b, c = images + 2, lost + 0.5, won + 0.5
    difference = (b - c) / n
    half = _Z95 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    return 100 * (difference - half), 100 * (difference + half)


def budget_miss(accuracy: Accuracy, budget: Budget, random_weights: bool) -> str | None:
    """What misses the budget, or None. Which measure counts depends on what the images can tell."""
    if accuracy.logit_error >= 1e30:
        return "logits are not finite: something overflows"
    if budget.max_logit_error is not None:
        return _over(
            accuracy.logit_error,
            budget.max_logit_error,
            "worst logit error",
            "{:.2g} of the logits' range",
        )
    if random_weights or accuracy.agreement is None:
        return _under(
            accuracy.cosine, budget.min_cosine, "cosine of image-centred outputs", "{:.5f}"
        )
    if accuracy.drop is not None:
        return _over(accuracy.drop, budget.max_drop, "top-1 drop", "{:.2f} points")
    return _under(
        accuracy.agreement, budget.min_agreement, "agreement with the reference", "{:.2%}"
    )


def _over(value: float, limit: float | None, what: str, style: str) -> str | None:
    if limit is None or value <= limit:
        return None
    return f"{what} is {style.format(value)}, over the budget of {style.format(limit)}"


def _under(value: float, limit: float | None, what: str, style: str) -> str | None:
    if limit is None or value >= limit:
        return None
    return f"{what} is {style.format(value)}, under the budget of {style.format(limit)}"


def golden_tolerance(logits: NDArray[np.float32], reference: Reference) -> float:
    """The relative RMS error that a device may have on the golden samples, from what was measured
    on them here.
    """
    metrics = compare_logits(logits[reference.golden], reference.logits[reference.golden], None)
    return max(TOLERANCE_FLOOR, TOLERANCE_FACTOR * _finite(metrics.rms_error))
