"""Finds what is broken in a lowering, whatever the cause, from a few unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.running import answers
from vit_edge.export.simulate import simulate, sixteen_bit_types
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.metrics import compare_logits
from vit_edge.runtime.tools.images import ImageSet

from .fault import ANSWERS, EXPORT, STRUCTURE, Fault
from .finite import first_not_finite
from .forced import force
from .judge import judge
from .limits import EXPORT_ERROR, Limits
from .moments import Observed, moments, observe
from .places import OUTPUT, Place, find_places
from .structure import check_grids, check_layer_norms, check_quantised_stream, check_stream

IMAGES = 16
"""As many as are looked at. Errors are averaged over tokens, which few images give plenty of."""
EXPORT_IMAGES = 4
"""Enough to tell a wrong graph before the work begins: its answers to all images are wrong."""

Answers = NDArray[np.float32]


def find_export_faults(fp32: ir.Model, images: ImageSet, reference: Answers) -> tuple[Fault, ...]:
    """Whether the optimised fp32 graph, to which lowerings are compared, gives PyTorch's answers:
    wrong preprocessing, lost or changed layers. Once for all precisions.

    Args:
        fp32: The graph.
        images: Unlabelled; `EXPORT_IMAGES` of them, spread evenly, are looked at.
        reference: PyTorch's answers to `images`, float32 `[N, outputs]`.
    """
    images, reference = _choose(images, reference, EXPORT_IMAGES)
    try:
        logits = answers(fp32, images)
    except EngineError as error:
        return (_does_not_run(error),)
    if not np.isfinite(logits).all():
        return (Fault(EXPORT, OUTPUT, OUTPUT, "the fp32 graph's answers are not finite"),)
    return tuple(_check_answers(logits, reference, EXPORT, EXPORT_ERROR))


def find_faults(
    lowered: ir.Model, fp32: ir.Model, images: ImageSet, reference: Answers, limits: Limits
) -> tuple[Fault, ...]:
    """What is broken in `lowered`.

    Args:
        lowered: A precision's graph; where it has 16-bit tensors, their numerics are simulated.
        fp32: The optimised fp32 graph, without export faults; `lowered` has its tensors' names.
        images: Unlabelled; `IMAGES` of them, spread evenly, are looked at.
        reference: PyTorch's answers to `images`, float32 `[N, outputs]`.
        limits: A row of `LIMITS`.
    """
    images, reference = _choose(images, reference, IMAGES)
    places = find_places(fp32.graph)
    lost = [*check_stream(lowered.graph, places)]
    faults = [
        *lost,
        *check_quantised_stream(lowered.graph, fp32.graph, places),
        *check_layer_norms(lowered.graph, fp32.graph),
        *check_grids(lowered.graph),
    ]
    if not lost:  # else there is nothing to cut at
        faults += _check_numbers(lowered, fp32, images, reference, places, limits)
    return tuple(faults)


def _choose(images: ImageSet, reference: Answers, most: int) -> tuple[ImageSet, Answers]:
    count = min(most, len(images))
    positions = np.linspace(0, len(images) - 1, count).astype(int)
    return images.subset(positions.tolist()), reference[positions]


def _check_numbers(
    lowered: ir.Model,
    fp32: ir.Model,
    images: ImageSet,
    reference: Answers,
    places: Sequence[Place],
    limits: Limits,
) -> Sequence[Fault]:
    computable = simulate(lowered) if sixteen_bit_types(lowered) else lowered
    try:
        observed = observe(force(computable, fp32, places), images)
    except EngineError as error:
        return [_does_not_run(error)]
    overflow = first_not_finite(computable, observed, images)
    if overflow is not None:
        return [overflow]
    return [
        *_check_places(observed, len(images), limits),
        *_check_answers(observed.logits, reference, ANSWERS, limits.answers),
    ]


def _check_places(observed: Observed, images: int, limits: Limits) -> Sequence[Fault]:
    found = []
    for place, sums in zip(observed.places, observed.sums, strict=True):
        reads = observed.ranges.get(place.reads)
        found.append(judge(place, moments(place, sums, images, limits.rounding), reads, limits))
    return [fault for fault in found if fault is not None]


def _check_answers(
    logits: Answers, reference: Answers, check: str, limit: float
) -> Sequence[Fault]:
    error = compare_logits(logits, reference, None).rms_error
    if error <= limit:
        return []
    what = f"RMS error against PyTorch is {error:.2g}, over the limit of {limit:.2g}"
    if check == EXPORT:
        what += ": the export itself is wrong, preprocessing or a layer"
    return [Fault(check, OUTPUT, OUTPUT, what)]


def _does_not_run(error: EngineError) -> Fault:
    return Fault(STRUCTURE, OUTPUT, OUTPUT, f"the graph does not run: {error}")
