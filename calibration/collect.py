"""Runs the fp32 graph over the calibration images, observes its activations, and samples them for
the algorithms that need more than a range.

A sample's row is one token's input of a Linear: float32 `[K]`. Every image adds the same number of
tokens: the first one (the class token), those with the greatest magnitudes, and others drawn with
the image's index in the set as the seed, so that batch size changes nothing. On disk, each layer
has two files; rows are memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.images import ImageSet

from .observers import (
    METHODS,
    SEARCH,
    CalibrationTable,
    Origin,
    Provenance,
    RangeObserver,
    require_finite,
    require_method,
)
from .onnx_file import graph_digest, to_bytes

Rows = NDArray[np.float32]

MAX_ROWS = 2048
"""Most rows sampled for a layer."""
_EXTREME = 5
"""One in this many sampled tokens is among those with the greatest magnitudes of its image, because
rare tokens have the widest range.
"""
_INDEX = "samples.json"


@dataclass(frozen=True)
class LayerSamples:
    """Samples of a Linear's input.

    Attributes:
        rows: float32 `[rows, K]`.
        channel_amax: float32 `[K]`, the largest magnitude of each channel over all tokens.
    """

    rows: Rows
    channel_amax: Rows


Samples = Mapping[str, LayerSamples]


class LayerSampler:
    """Collects the samples of one layer; also a `RangeObserver` of the largest magnitude."""

    def __init__(self, images: int) -> None:
        self._tokens = max(1, MAX_ROWS // max(1, images))
        self._images = 0
        self._samples: list[Rows] = []
        self._amax: Rows | None = None

    def update(self, values: Rows) -> None:
        """Adds `values`, float32 `[images, ..., K]`, of the next images of the set.

        Raises:
            ValueError: if they are not finite.
        """
        tokens = values.reshape(len(values), -1, values.shape[-1])
        largest = np.abs(tokens).max(axis=(0, 1))
        require_finite(float(largest.max()))
        self._amax = largest if self._amax is None else np.maximum(self._amax, largest)
        for index, rows in enumerate(tokens[: max(0, MAX_ROWS - self._images)], self._images):
            self._samples.append(rows[_choose(rows, self._tokens, index)])
        self._images += len(tokens)

    def amax(self) -> float:
        assert self._amax is not None
        return float(self._amax.max())

    def result(self) -> LayerSamples:
        assert self._amax is not None
        return LayerSamples(np.concatenate(self._samples), self._amax)


def _choose(rows: Rows, most: int, image: int) -> NDArray[np.int64]:
    """Chooses the first token, those with the greatest magnitudes and random others, at most `most`
    in all.
    """
    tokens = len(rows)
    if tokens <= most:
        return np.arange(tokens)
    magnitudes = np.abs(rows)
    typical = np.maximum(np.sqrt(np.square(magnitudes).mean(axis=0)), 1e-6)
    order = [np.argsort(-m.max(axis=1), kind="stable") for m in (magnitudes, magnitudes / typical)]
    extreme = np.stack(order, axis=1).reshape(-1)
    others = np.random.default_rng(image).permutation(tokens)
    ranked = np.concatenate([np.zeros(1, np.int64), extreme[: most // _EXTREME], others])
    first = np.sort(np.unique(ranked, return_index=True)[1])
    return np.sort(ranked[first][:most])


def save_samples(folder: Path, samples: Samples) -> None:
    """Writes `samples.json` and two arrays for each layer."""
    for number, layer in enumerate(samples.values()):
        np.save(folder / f"{number}.rows.npy", layer.rows)
        np.save(folder / f"{number}.amax.npy", layer.channel_amax)
    (folder / _INDEX).write_text(json.dumps(list(samples)))


def load_samples(folder: Path) -> Samples:
    """Reads samples that `save_samples` wrote; rows are memory-mapped, not read."""
    names: Sequence[str] = json.loads((folder / _INDEX).read_text())
    return {
        name: LayerSamples(
            np.load(folder / f"{number}.rows.npy", mmap_mode="r"),
            np.load(folder / f"{number}.amax.npy"),
        )
        for number, name in enumerate(names)
    }


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration: ranges and peaks; for `SEARCH`, samples of activations too.

    `images` are the calibration images, for searches that judge by the model's outputs.
    """

    table: CalibrationTable
    samples: Samples
    images: ImageSet


_BATCH = 1
"""For a ViT-B four images at a time would take a gigabyte more, and longer: their activations, all
of which are read, exceed the processor's caches.
"""
_LARGEST = float(np.finfo(np.float32).max)


def collect(
    model: ir.Model,
    layers: Sequence[str],
    images: ImageSet,
    method: str,
    origin: Origin,
    on_images: Callable[[int, int], None],
) -> Calibration:
    """Observes the tensors `layers` with `method`, and the peak of every floating-point activation.

    Args:
        model: The optimised fp32 graph, whose input is uint8 `[batch, height, width, channels]`.
        layers: Names of the tensors that will be quantised. Channels are on the last axis, or on
            the second axis of tensors that a convolution reads.
        images: Calibration images; their labels are not used.
        method: A key of `METHODS`, or `SEARCH`: ranges are searched later, on samples.
        origin: The identity of the model; part of the table.
        on_images: Called with images done and images in all.

    Raises:
        InputError: if there are no images, the method is unknown, or an activation is not finite.
    """
    require_method(method)
    if not len(images):
        raise InputError(f"{images.source} has no images to calibrate with")
    observed = model.clone()
    peaks = _observe_peaks(observed.graph)
    layer_names = _observe_layers(observed.graph, layers)
    session = _open(observed)
    samplers = {layer: LayerSampler(len(images)) for layer in layers if method == SEARCH}
    observers: dict[str, RangeObserver] = {
        layer: samplers[layer] if method == SEARCH else METHODS[method]() for layer in layers
    }
    end_names = [name for names in peaks.values() for name in names]
    largest = dict.fromkeys(peaks, 0.0)
    done = 0
    for batch in images.batches(_BATCH):
        values = session.run([*end_names, *layer_names], {observed.graph.inputs[0].name: batch})
        ends = values[: len(end_names)]
        for name, least, most in zip(peaks, ends[::2], ends[1::2], strict=True):
            peak = max(-float(least), float(most))
            largest[name] = max(largest[name], min(peak, _LARGEST))  # pools pad with -infinity
        for layer, value in zip(layers, values[len(end_names) :], strict=True):
            try:
                observers[layer].update(value)
            except ValueError as error:
                raise InputError(f"{layer}: {error}") from None
        done += len(batch)
        on_images(done, len(images))
    provenance = provenance_of(model, images, method, origin)
    ranges = {layer: observer.amax() for layer, observer in observers.items()}
    return Calibration(
        CalibrationTable(provenance, ranges, largest),
        {layer: sampler.result() for layer, sampler in samplers.items()},
        images,
    )


def provenance_of(model: ir.Model, images: ImageSet, method: str, origin: Origin) -> Provenance:
    """Describes the model and data that a table is made from."""
    digest = graph_digest(model)
    return Provenance(origin, digest, images.digest(), images.source, len(images), method)


def _observe_peaks(graph: ir.Graph) -> dict[str, tuple[str, str]]:
    """Adds the minimum and maximum of every fp32 activation as outputs, and returns their names by
    tensor.

    Computing the largest magnitude instead would first write the magnitudes of the whole tensor.
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


def _observe_layers(graph: ir.Graph, layers: Sequence[str]) -> list[str]:
    """Adds the tensors as outputs, channels last, and returns the outputs' names."""
    by_name = {v.name: v for node in graph for v in node.outputs}
    missing = [layer for layer in layers if layer not in by_name]
    if missing:
        raise InputError(f"the graph has no tensors {missing[:5]}")
    values = [_channels_last(graph, by_name[layer]) for layer in layers]
    graph.outputs.extend(values)
    return [str(value.name) for value in values]


def _channels_last(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The tensor, transposed to channels last if a convolution reads it."""
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
