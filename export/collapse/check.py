"""Finds faults of a lowering, whatever the cause, from a few unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, describe
from vit_edge.export.measure import iter_outputs, predict, simulate, sixteen_bit_types
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.tools.images import ImageSet

from .explained import PlainLowerings
from .joined import join_teacher_forced
from .judge import Moments, Observed, judge, moments, observe
from .limits import EXPORT, EXPORT_ERROR, FINITE, OUTPUTS, STRUCTURE, Fault, Limits, widen_limits
from .probes import OUTPUT, Probe, find_probes
from .structure import check_grids, check_layer_norms, check_quantised_stream, check_stream

IMAGES = 16
"""Number of images used. Errors are averaged over tokens, of which few images have plenty."""
EXPORT_IMAGES = 4
"""Enough to detect a wrong graph before the work begins: its outputs are wrong for all images."""

_ONE = 1
"""Images at a time in the search for the first tensor that is not finite: it sums every one."""

Values = NDArray[np.float32]


def find_export_faults(
    fp32: ir.Model, images: ImageSet, reference: Values, scale: float
) -> tuple[Fault, ...]:
    """Compares the optimised fp32 graph, to which lowerings are compared, with PyTorch.

    Finds wrong preprocessing and lost or changed layers, once for all precisions.

    Args:
        fp32: The graph, of one output `[batch, width]`.
        images: Unlabelled; `EXPORT_IMAGES` of them, spread evenly, are used.
        reference: PyTorch's outputs of `images`, float32 `[N, width]`.
        scale: What their errors are relative to.
    """
    images, reference = _choose(images, reference, EXPORT_IMAGES)
    try:
        values = predict(fp32, images)
    except EngineError as error:
        return (_does_not_run(error),)
    if not np.isfinite(values).all():
        return (Fault(EXPORT, OUTPUT, OUTPUT, "the fp32 graph's outputs are not finite"),)
    return tuple(_check_outputs(values, reference, scale, EXPORT, EXPORT_ERROR))


def find_faults(
    lowered: ir.Model,
    fp32: ir.Model,
    images: ImageSet,
    reference: Values,
    scale: float,
    limits: Limits,
    plain: PlainLowerings | None = None,
) -> tuple[Fault, ...]:
    """Finds the faults of `lowered`.

    Args:
        lowered: A precision's graph, of one output `[batch, width]`; where it has 16-bit tensors,
            their numerics are simulated.
        fp32: The optimised fp32 graph, without export faults; `lowered` has its tensors' names.
        images: Unlabelled; `IMAGES` of them, spread evenly, are used.
        reference: PyTorch's outputs of `images`, float32 `[N, width]`.
        scale: What their errors are relative to.
        limits: The precision's.
        plain: Those kept from checks of other lowerings of `fp32` on the same images; None: made
            anew.
    """
    images, reference = _choose(images, reference, IMAGES)
    probes = find_probes(fp32.graph)
    lost = [*check_stream(lowered.graph, probes)]
    faults = [
        *lost,
        *check_quantised_stream(lowered.graph, fp32.graph, probes),
        *check_layer_norms(lowered.graph, fp32.graph),
        *check_grids(lowered.graph),
    ]
    if not lost:  # the graphs can only be cut at an intact stream
        plain = plain or PlainLowerings()
        faults += _check_numbers(lowered, fp32, images, (reference, scale), probes, limits, plain)
    return tuple(faults)


def _choose(images: ImageSet, reference: Values, most: int) -> tuple[ImageSet, Values]:
    count = min(most, len(images))
    positions = np.linspace(0, len(images) - 1, count).astype(int)
    return images.subset(positions.tolist()), reference[positions]


def _check_numbers(
    lowered: ir.Model,
    fp32: ir.Model,
    images: ImageSet,
    reference: tuple[Values, float],
    probes: Sequence[Probe],
    limits: Limits,
    plain: PlainLowerings,
) -> Sequence[Fault]:
    computable = simulate(lowered) if sixteen_bit_types(lowered) else lowered
    try:
        observed = observe(join_teacher_forced(computable, fp32, probes), images)
    except EngineError as error:
        return [_does_not_run(error)]
    overflow = first_not_finite(computable, observed, images)
    if overflow is not None:
        return [overflow]
    values, scale = reference
    faults = _check_places(observed, len(images), limits)
    outputs = _check_outputs(observed.outputs, values, scale, OUTPUTS, limits.outputs)
    if faults or outputs:
        explained, limit = plain.observe(lowered, fp32, images, probes), limits.outputs
        if explained is not None:
            limit = widen_limits(limit, _error(explained.outputs, values, scale))
        faults = _check_places(observed, len(images), limits, explained)
        outputs = _check_outputs(observed.outputs, values, scale, OUTPUTS, limit)
    return [*faults, *outputs]


def _check_places(
    observed: Observed, images: int, limits: Limits, plain: Observed | None = None
) -> Sequence[Fault]:
    faults, explained = [], dict[str, Moments]()
    if plain is not None:
        for probe, sums in zip(plain.probes, plain.sums, strict=True):
            explained[probe.name] = moments(probe, sums, images, limits.rounding)
    for probe, sums in zip(observed.probes, observed.sums, strict=True):
        reads, plainly = observed.ranges.get(probe.reads), explained.get(probe.name)
        measured = moments(probe, sums, images, limits.rounding)
        faults.append(judge(probe, measured, reads, limits, plainly))
    return [fault for fault in faults if fault is not None]


def _check_outputs(
    values: Values, reference: Values, scale: float, check: str, limit: float
) -> Sequence[Fault]:
    error = _error(values, reference, scale)
    if error <= limit:
        return []
    what = f"RMS error against PyTorch is {error:.2g}, over the limit of {limit:.2g}"
    if check == EXPORT:
        what += ": the export itself is wrong, preprocessing or a layer"
    return [Fault(check, OUTPUT, OUTPUT, what)]


def _error(values: Values, reference: Values, scale: float) -> float:
    difference = values.astype(np.float64) - reference
    return float(np.sqrt((difference**2).mean())) / scale


def _does_not_run(error: EngineError) -> Fault:
    return Fault(STRUCTURE, OUTPUT, OUTPUT, f"the graph does not run: {error}")


def first_not_finite(lowered: ir.Model, observed: Observed, images: ImageSet) -> Fault | None:
    """The fault of a lowering with infinities or NaN at a probe, named after the first
    tensor in graph order that has them; None where all is finite.
    """
    finite = [np.isfinite(sums).all() for sums in observed.sums]
    if all(finite) and np.isfinite(observed.outputs).all():
        return None
    tensor = _locate(lowered, images) or OUTPUT
    module = tensor.rpartition("/")[0] or tensor
    what = "the first tensor that is not finite: it overflows its type, or divides by zero"
    return Fault(FINITE, module, tensor, what)


def _locate(lowered: ir.Model, images: ImageSet) -> str | None:
    model = lowered.clone()
    names = _watch_all(model.graph)
    for numbers in iter_outputs(model, images, _ONE):
        for name, number in zip(names, numbers, strict=True):
            if not np.isfinite(number).all():
                return name.partition("@")[0]
    return None


def _watch_all(graph: ir.Graph) -> list[str]:
    """Replaces the outputs by one number for each fp32 tensor, NaN if that is not finite."""
    graph.outputs.clear()
    zero = add_initializer(graph, "watch/zero", np.zeros((), np.float32))
    names: list[str] = []
    for node in list(graph):
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                nothing = ir.node("Mul", [value, zero])
                total = ir.node("ReduceSum", nothing.outputs, {"keepdims": 0})
                graph.insert_after(node, (nothing, total))
                name = f"watch:{len(names)}"
                output = describe(total.outputs[0], name, ir.Shape([]), ir.DataType.FLOAT)
                graph.outputs.append(output)
                names.append(str(value.name))
    return names
