"""Runs the fp32 graph over the calibration images and observes its activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.images import ImageSet

from .observers import METHODS, SEARCH, Observer, require_method
from .onnx_file import graph_digest, to_bytes
from .samples import Samples, SiteSampler
from .table import CalibrationTable, Origin, Provenance


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration: ranges and peaks; for `SEARCH`, samples of activations too.

    `images` are those that it was made of, for searches that judge by the model's outputs.
    """

    table: CalibrationTable
    samples: Samples
    images: ImageSet


_BATCH = 1
"""Four images at a time take a gigabyte more of a ViT-B, and longer: their activations, all of
which are read, outgrow the processor's caches.
"""
_LARGEST = float(np.finfo(np.float32).max)


def collect(
    model: ir.Model,
    sites: Sequence[str],
    images: ImageSet,
    method: str,
    origin: Origin,
    on_images: Callable[[int, int], None],
) -> Calibration:
    """Observes the tensors `sites` with `method`, and the peak of every floating-point activation.

    Args:
        model: The optimised fp32 graph, uint8 `[batch, height, width, channels]` in.
        sites: Names of the tensors that will be quantised. Channels lie on the last axis, but on
            the second one of what a convolution reads.
        images: Calibration images; their labels are not used.
        method: A key of `METHODS`, or `SEARCH`: ranges are searched later, on samples.
        origin: What the model is made of; part of the table.
        on_images: Called with images done and images in all.

    Raises:
        InputError: if there are no images, the method is unknown, or an activation is not finite.
    """
    require_method(method)
    if not len(images):
        raise InputError(f"{images.source} has no images to calibrate with")
    observed = model.clone()
    peaks = _observe_peaks(observed.graph)
    site_names = _observe_sites(observed.graph, sites)
    session = _open(observed)
    samplers = {site: SiteSampler(len(images)) for site in sites if method == SEARCH}
    observers: dict[str, Observer] = {
        site: samplers[site] if method == SEARCH else METHODS[method]() for site in sites
    }
    end_names = [name for names in peaks.values() for name in names]
    largest = dict.fromkeys(peaks, 0.0)
    done = 0
    for batch in images.batches(_BATCH):
        values = session.run([*end_names, *site_names], {observed.graph.inputs[0].name: batch})
        ends = values[: len(end_names)]
        for name, least, most in zip(peaks, ends[::2], ends[1::2], strict=True):
            peak = max(-float(least), float(most))
            largest[name] = max(largest[name], min(peak, _LARGEST))  # pools pad with -infinity
        for site, value in zip(sites, values[len(end_names) :], strict=True):
            try:
                observers[site].update(value)
            except ValueError as error:
                raise InputError(f"{site}: {error}") from None
        done += len(batch)
        on_images(done, len(images))
    provenance = provenance_of(model, images, method, origin)
    ranges = {site: observer.amax() for site, observer in observers.items()}
    return Calibration(
        CalibrationTable(provenance, ranges, largest),
        {site: sampler.result() for site, sampler in samplers.items()},
        images,
    )


def provenance_of(model: ir.Model, images: ImageSet, method: str, origin: Origin) -> Provenance:
    """Describes the model and data that a table is made from."""
    digest = graph_digest(model)
    return Provenance(origin, digest, images.digest(), images.source, len(images), method)


def _observe_peaks(graph: ir.Graph) -> dict[str, tuple[str, str]]:
    """Adds the minimum and maximum of every fp32 activation as outputs, and returns their names by
    tensor.

    A largest magnitude would first write out the magnitudes of the whole tensor.
    """
    activations = [(n, v) for n in graph for v in n.outputs if v.dtype == ir.DataType.FLOAT]
    outputs = {}
    for node, value in activations:
        ends = [ir.node(kind, [value], {"keepdims": 0}) for kind in ("ReduceMin", "ReduceMax")]
        graph.insert_after(node, ends)  # at once, so that the activation can be freed
        names = (f"{value.name}@least", f"{value.name}@largest")
        for end, name in zip(ends, names, strict=True):
            _add_output(graph, end.outputs[0], name)
        outputs[str(value.name)] = names
    return outputs


def _add_output(graph: ir.Graph, value: ir.Value, name: str) -> None:
    value.name, value.dtype, value.shape = name, ir.DataType.FLOAT, ir.Shape([])
    graph.outputs.append(value)


def _observe_sites(graph: ir.Graph, sites: Sequence[str]) -> list[str]:
    """Adds the tensors as outputs, channels last, and returns their names."""
    by_name = {v.name: v for node in graph for v in node.outputs}
    missing = [site for site in sites if site not in by_name]
    if missing:
        raise InputError(f"the graph has no tensors {missing[:5]}")
    values = [_channels_last(graph, by_name[site]) for site in sites]
    graph.outputs.extend(values)
    return [str(value.name) for value in values]


def _channels_last(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The tensor, transposed where a convolution reads it."""
    node, rank = value.producer(), len(value.shape or ())
    if node is None or not any(user.op_type == "Conv" for user in value.consumers()):
        return value
    turn = ir.node("Transpose", [value], {"perm": [0, *range(2, rank), 1]})
    graph.insert_after(node, turn)
    result = turn.outputs[0]
    result.name, result.dtype = f"{value.name}@channels last", ir.DataType.FLOAT
    return result


def _open(model: ir.Model) -> Any:
    content = to_bytes(model)
    return open_inference(content.graph, content.external)
