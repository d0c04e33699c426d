"""Finds what is broken in a lowering, whatever the cause, from a few unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.onnx_file import to_bytes
from export.simulate import has_sixteen_bit, simulate
from runtime.backends.onnxruntime import open_inference
from runtime.images import ImageSet
from runtime.metrics import measure

from .fault import ANSWERS, EXPORT, STRUCTURE, Fault
from .finite import first_not_finite
from .forced import force
from .judge import judge
from .limits import EXPORT_ERROR, Limits
from .moments import BATCH, Observed, moments, observe
from .places import OUTPUT, Place, find_places
from .structure import check_grids, check_layer_norms, check_quantised_stream, check_stream

IMAGES = 32
"""As many as are looked at: errors are averaged over all tokens, which few images give plenty of,
and a ViT-B takes a third of a second for each.
"""


def find_faults(
    lowered: ir.Model,
    fp32: ir.Model,
    images: ImageSet,
    reference: NDArray[np.float32],
    limits: Limits,
) -> tuple[Fault, ...]:
    """What is broken in `lowered`, or in the fp32 graph that it was made of.

    Args:
        lowered: A precision's graph; where it has 16-bit tensors, their numerics are simulated.
        fp32: The optimised fp32 graph; `lowered` has its tensors' names.
        images: Unlabelled; `IMAGES` of them, spread evenly, are looked at.
        reference: PyTorch's answers to `images`, float32 `[N, outputs]`.
        limits: A row of `LIMITS`.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int))
    images, reference = images.subset(chosen.tolist()), reference[chosen]
    faults = [*_check_export(fp32, images, reference)]
    places = find_places(fp32.graph)
    lost = [*check_stream(lowered.graph, places)]
    faults += [
        *lost,
        *check_quantised_stream(lowered.graph, fp32.graph, places),
        *check_layer_norms(lowered.graph, fp32.graph),
        *check_grids(lowered.graph),
    ]
    if not lost:
        faults += _check_numbers(lowered, fp32, images, reference, places, limits)
    return tuple(faults)


def _check_export(
    fp32: ir.Model, images: ImageSet, reference: NDArray[np.float32]
) -> Sequence[Fault]:
    """The fp32 graph against PyTorch, tightly: wrong preprocessing, lost or changed layers."""
    content = to_bytes(fp32)
    session = open_inference(content.graph, content.external)
    name = fp32.graph.inputs[0].name
    logits = np.concatenate([session.run(None, {name: b})[0] for b in images.batches(BATCH)])
    return _check_answers(logits, reference, EXPORT, EXPORT_ERROR)


def _check_answers(
    logits: NDArray[np.float32], reference: NDArray[np.float32], check: str, limit: float
) -> Sequence[Fault]:
    error = measure(logits, reference, None).rms_error
    if error <= limit:
        return []
    what = f"RMS error against PyTorch is {error:.2g}, over the limit of {limit:.2g}"
    if check == EXPORT:
        what += ": the export itself is wrong, preprocessing or a layer"
    return [Fault(check, OUTPUT, OUTPUT, what)]


def _check_numbers(
    lowered: ir.Model,
    fp32: ir.Model,
    images: ImageSet,
    reference: NDArray[np.float32],
    places: Sequence[Place],
    limits: Limits,
) -> Sequence[Fault]:
    computable = simulate(lowered) if has_sixteen_bit(lowered) else lowered
    try:
        observed = observe(force(computable, fp32, places), images)
    except Exception as error:  # ONNX Runtime's own, of a graph that is no valid one
        reason = str(error).splitlines()[0]
        return [Fault(STRUCTURE, OUTPUT, OUTPUT, f"the graph does not run: {reason}")]
    overflow = first_not_finite(computable, observed, images)
    if overflow is not None:
        return [overflow]
    answers = _check_answers(observed.logits, reference, ANSWERS, limits.answers)
    return [*_check_places(observed, len(images), limits), *answers]


def _check_places(observed: Observed, images: int, limits: Limits) -> Sequence[Fault]:
    rounding = limits.stream / limits.branch
    found = []
    for place, sums in zip(observed.places, observed.sums, strict=True):
        reads = observed.ranges.get(place.reads)
        found.append(judge(place, moments(place, sums, images, rounding), reads, limits))
    return [fault for fault in found if fault is not None]
