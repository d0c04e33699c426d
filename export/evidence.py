"""Evidence of an export: checks whether its images are enough to support its verdict.

A verdict on classes counts images, and a count of few images proves little: a model with 74 %
agreement agrees on ten of ten images in one of twenty tries.

Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in
the case of the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from vit_edge.runtime.manifest import Accuracy
from vit_edge.runtime.outputs import EMBEDDING, OutputSpec, unpack
from vit_edge.runtime.tools.display import percent
from vit_edge.runtime.tools.images import ImageSet

from .accuracy import Reference, paired_interval
from .precision import Budget

_CONFIDENCE = 0.95
_MOST_IMAGES = 1_000_000
FEWEST = 16
"""Fewest images over which a mean error means anything."""
_NEARLY_ALL = 0.95
_COUNTED = 64
"""Calibration images that are compared to see if all are alike."""


def lowest_rate(successes: int, images: int) -> float:
    """The lower end of the exact one-sided 95 % interval of a rate, 0 to 1."""
    if successes == 0:
        return 0.0
    return float(beta.ppf(1 - _CONFIDENCE, successes, images - successes + 1))


def find_weakness(
    accuracy: Mapping[str, Accuracy],
    outputs: tuple[OutputSpec, ...],
    budget: Budget,
    random_weights: bool,
) -> str | None:
    """Describes why the images are not enough to support a good verdict; None if they are.

    Args:
        accuracy: Of each output, by name, within its budget.
        outputs: The outputs.
        budget: The precision's.
        random_weights: True if the weights are random: classes mean nothing and are not judged.
    """
    for output in outputs:
        weakness = _of_output(output, accuracy[output.name], budget, random_weights)
        if weakness:
            return weakness if len(outputs) == 1 else f"{output.name}: {weakness}"
    return None


def _of_output(
    output: OutputSpec, accuracy: Accuracy, budget: Budget, random_weights: bool
) -> str | None:
    images = accuracy.images
    if budget.max_logit_error is not None:  # each value of each image is looked at
        return None
    if images < FEWEST:
        return f"{images} images; {FEWEST} are the fewest that say something"
    if random_weights or not (output.classifies or output.kind == EMBEDDING):
        return None
    if accuracy.drop is not None and budget.max_drop is not None:
        return _of_drop(accuracy, budget.max_drop)
    least = budget.min_neighbours if output.kind == EMBEDDING else budget.min_agreement
    if accuracy.agreement is None or least is None:
        return None
    low = lowest_rate(round(accuracy.agreement * images), images)
    if low >= least:
        return None
    agreement = accuracy.agreement
    enough = _enough(lambda n: lowest_rate(round(agreement * n), n) >= least, images)
    return (
        f"{images} images: agreement may be as low as {percent(low)}, the budget is "
        f"{percent(least)}; {enough}"
    )


def _of_drop(accuracy: Accuracy, most: float) -> str | None:
    """Describes a paired interval of the drop that exceeds the budget; None if it does not."""
    images, high = accuracy.images, accuracy.drop_high or 0.0
    if high <= most:
        return None
    drop = accuracy.drop or 0.0
    # The manifest does not hold the number of flips: it follows from the interval's width.
    half = high - (drop * images / (images + 2))
    flips = max((half * (images + 2) / 100 / 1.96) ** 2 - 1, 0.0) / images

    def holds(n: int) -> bool:
        lost = round((flips * n + drop / 100 * n) / 2)
        won = max(round(flips * n) - lost, 0)
        return paired_interval(lost, won, n)[1] <= most

    return (
        f"{images} images: top-1 may drop by {high:.2f} points, the budget is {most:.2f}; "
        f"{_enough(holds, images)}"
    )


def _enough(holds: Callable[[int], bool], images: int) -> str:
    """Says how many images would be enough, if the outputs for them agreed as often as here."""
    enough = images
    while not holds(enough):
        enough = -(-enough * 11 // 10)
        if enough > _MOST_IMAGES:
            return "it is so near to the budget that no number of images would do"
    return f"about {_rounded(enough)} would do"


def _rounded(number: int) -> int:
    """The number to two digits, rounded up."""
    step: int = max(1, 10 ** (len(str(number)) - 2))
    return -(-number // step) * step


def remarks_on_reference(reference: Reference) -> Iterator[str]:
    """Yields remarks where the model itself hardly tells the evaluation images apart."""
    views = unpack(reference.values, reference.outputs)
    for output in reference.outputs:
        if output.classifies and len(reference.values) > 1:
            yield from _remarks_on_classes(views[output.name].argmax(axis=1), reference.labels)


def _remarks_on_classes(
    predicted: NDArray[np.int64], labels: NDArray[np.int64] | None
) -> Iterator[str]:
    classes, counts = np.unique(predicted, return_counts=True)
    share = counts.max() / len(predicted)
    if share >= _NEARLY_ALL:
        yield (
            f"the model gives class {classes[counts.argmax()]} to {percent(share)} of the "
            "evaluation images: agreement on them says little"
        )
    if labels is not None:
        names, votes = np.unique(labels, return_counts=True)
        majority, right = votes.max() / len(labels), float((predicted == labels).mean())
        if len(names) == 1:
            yield f"all evaluation images are of class {names[0]}: top-1 on them says little"
        elif right <= majority:
            yield (
                f"the model's own top-1 of {percent(right)} is no better than always answering "
                f"class {names[votes.argmax()]} ({percent(majority)}): a wrong order of the "
                "classes, wrong preprocessing, or other images than it was trained on"
            )


def remarks_on_calibration(images: ImageSet) -> Iterator[str]:
    """Yields a remark if there is one calibration image, or all are the same or of one class."""
    if len(images) < 2:
        yield f"calibration has {len(images)} image: ranges of one image fit no other"
        return
    few = images.subset(range(min(len(images), _COUNTED)))
    first = next(few.batches(1))[0]
    if all((image == first).all() for batch in few.batches(8) for image in batch):
        yield "all calibration images are the same one: ranges of it fit no other"
    elif images.labels is not None and len(np.unique(images.labels)) == 1:
        yield (
            "all calibration images are of one class: ranges may not fit the others; name a set "
            "of all classes with --calib"
        )
