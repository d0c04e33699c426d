"""Accuracy of a precision's outputs against PyTorch's, and its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.manifest import Accuracy
from vit_edge.runtime.outputs import (
    EMBEDDING,
    LOGITS,
    Metrics,
    OutputSpec,
    compare,
    neighbours_are_right,
    unpack,
)

from .outputs import join_values
from .precision import Budget
from .user_code import Metric, allowed_drop

_Z95 = 1.959964
TOLERANCE_FACTOR, TOLERANCE_FLOOR = 4.0, 1e-3
"""Tolerance of a device on the golden samples: this factor times the RMS error measured at export,
but at least this floor.
"""


@dataclass(frozen=True)
class Reference:
    """PyTorch's fp32 outputs on the evaluation images.

    Attributes:
        values: float32 `[N, width]`, the outputs of an image side by side.
        outputs: The outputs that `values` holds, with their scales.
        labels: int64 `[N]` or None.
        golden: Positions of the golden samples.
    """

    values: NDArray[np.float32]
    outputs: tuple[OutputSpec, ...]
    labels: NDArray[np.int64] | None
    golden: NDArray[np.int64]

    def joined(self) -> tuple[NDArray[np.float32], float]:
        """Returns the vectors that a joined graph gives, and the scale of their errors."""
        return join_values(self.values, self.outputs)


@dataclass(frozen=True)
class Proof:
    """Accuracy of each output of a graph, and its tolerance on a device on the golden samples."""

    accuracy: dict[str, Accuracy]
    rms_tolerance: dict[str, float] = field(default_factory=dict)


def assess(
    values: NDArray[np.float32],
    reference: Reference,
    measured_on: str,
    metric: Metric | None = None,
) -> dict[str, Accuracy]:
    """Compares packed outputs with the reference, each by its kind.

    Args:
        values: float32 `[N, width]`.
        reference: The reference.
        measured_on: What computed them, in words.
        metric: The user's own measure, which is stored with the first output.
    """
    metrics = compare(values, reference.values, reference.outputs, reference.labels)
    mine, theirs = (unpack(v, reference.outputs) for v in (values, reference.values))
    own = expected = None
    if metric is not None:
        own, expected = metric(mine, reference.labels), metric(theirs, reference.labels)
    return {
        output.name: _assess_one(
            output,
            metrics[output.name],
            mine[output.name],
            theirs[output.name],
            reference.labels,
            measured_on,
            (own, expected) if index == 0 else (None, None),
        )
        for index, output in enumerate(reference.outputs)
    }


def _assess_one(
    output: OutputSpec,
    metrics: Metrics,
    values: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    measured_on: str,
    metric: tuple[float | None, float | None],
) -> Accuracy:
    drop = low = high = None
    if metrics.top1 is not None and labels is not None:
        expected = _right(output, reference, labels)
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        correct = _right(output, np.nan_to_num(values), labels) & finite
        lost, won = int((expected & ~correct).sum()), int((~expected & correct).sum())
        drop = 100 * (lost - won) / len(correct)
        low, high = paired_interval(lost, won, len(correct))
    return Accuracy(
        images=len(values),
        top1=metrics.top1,
        reference_top1=metrics.reference_top1,
        drop=drop,
        drop_low=low,
        drop_high=high,
        agreement=metrics.agreement,
        cosine=metrics.cosine,
        logit_error=_finite(metrics.logit_error),
        rms_error=_finite(metrics.rms_error),
        measured_on=measured_on,
        average_precision=metrics.average_precision,
        metric=metric[0],
        reference_metric=metric[1],
    )


def _right(
    output: OutputSpec, values: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Returns for each image whether its class is right."""
    if output.kind == EMBEDDING:
        return neighbours_are_right(values, labels)
    right: NDArray[np.bool_] = values.argmax(axis=1) == labels
    return right


def _finite(value: float) -> float:
    """Returns 1e30 for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else 1e30


def paired_interval(lost: int, won: int, images: int) -> tuple[float, float]:
    """95 % interval of the drop in percentage points, from the numbers of images that only the
    reference (`lost`) or only the precision (`won`) gets right.

    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24 (2005): Wald's interval with half an image added to each
    of the four cells. Without that, a small set without flips would give an interval of width 0.
    """
    n, b, c = images + 2, lost + 0.5, won + 0.5
    difference = (b - c) / n
    half = _Z95 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    return 100 * (difference - half), 100 * (difference + half)


def find_problem(
    accuracy: Mapping[str, Accuracy],
    outputs: tuple[OutputSpec, ...],
    budget: Budget,
    random_weights: bool,
    max_drop: float | None = None,
) -> str | None:
    """Describes the first measure of an output that is outside the budget; None if there is none.

    Args:
        accuracy: Of each output, by name.
        outputs: The outputs.
        budget: The precision's.
        random_weights: True if the weights are random, so that classes mean nothing.
        max_drop: How far the user's measure may fall below the reference's; None: by
            `ALLOWED_SHARE` of it.
    """
    first = accuracy[outputs[0].name]
    if first.metric is not None and first.reference_metric is not None:
        fall = first.reference_metric - first.metric
        limit = allowed_drop(max_drop, first.reference_metric)
        problem = _over(fall, limit, "the drop of your metric", "{:.4g}")
        if problem:
            return problem
    for output in outputs:
        problem = output_problem(output, accuracy[output.name], budget, random_weights)
        if problem:
            return problem if len(outputs) == 1 else f"{output.name}: {problem}"
    return None


def output_problem(
    output: OutputSpec, accuracy: Accuracy, budget: Budget, random_weights: bool
) -> str | None:
    """Does the same for one output. The measures that count depend on its kind, the budget, random
    weights, and what could be measured on the images.
    """
    if accuracy.logit_error >= 1e30:
        return "some values are not finite: something overflows"
    if budget.max_logit_error is not None:
        worst = "worst logit error" if output.kind == LOGITS else "worst error"
        return _over(
            accuracy.logit_error,
            budget.max_logit_error,
            worst,
            f"{{:.2g}} of the {'logits' if output.kind == LOGITS else 'values'}' range",
        )
    if output.classifies or output.is_of_labels:
        if random_weights or accuracy.agreement is None:
            return _under(
                accuracy.cosine, budget.min_cosine, "cosine of image-centred outputs", "{:.5f}"
            )
        if accuracy.drop is not None:
            return _over(accuracy.drop, budget.max_drop, "top-1 drop", "{:.2f} points")
        what = "agreement of labels" if output.is_of_labels else "agreement with the reference"
        return _under(accuracy.agreement, budget.min_agreement, what, "{:.2%}")
    limit = budget.max_rms.get(output.kind)
    problem = _over(accuracy.rms_error, limit, "relative RMS error", "{:.3g}")
    if problem or random_weights:
        return problem
    if accuracy.drop is not None:
        problem = _over(accuracy.drop, budget.max_drop, "drop of k-NN top-1", "{:.2f} points")
    if problem or accuracy.agreement is None:
        return problem
    if output.kind == EMBEDDING:
        what, least = "agreement of nearest neighbours", budget.min_neighbours
    else:
        what, least = "agreement of pixels", budget.min_agreement
    return _under(accuracy.agreement, least, what, "{:.2%}")


def _over(value: float, limit: float | None, what: str, style: str) -> str | None:
    if limit is None or value <= limit:
        return None
    return f"{what} is {style.format(value)}, over the budget of {style.format(limit)}"


def _under(value: float, limit: float | None, what: str, style: str) -> str | None:
    if limit is None or value >= limit:
        return None
    return f"{what} is {style.format(value)}, under the budget of {style.format(limit)}"


def golden_tolerances(values: NDArray[np.float32], reference: Reference) -> dict[str, float]:
    """Returns the relative RMS error that each output may have on a device on the golden samples,
    derived from the error measured on them here.
    """
    few = reference.golden
    metrics = compare(values[few], reference.values[few], reference.outputs)
    return {
        name: max(TOLERANCE_FLOOR, TOLERANCE_FACTOR * _finite(one.rms_error))
        for name, one in metrics.items()
    }
