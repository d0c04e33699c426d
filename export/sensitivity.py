"""Effect of each quantised layer on the outputs, measured in one pass over the images.

The graph starts with a batch of one image. After each layer the batch grows by one element: the
values for the image if only that layer were quantised. Where a branch lacks an element, a copy of
the first one, which stays exact, stands in. So everything before a layer is computed once, and the
whole costs about half as much as running the model once for each layer. Graphs that cannot grow
this way, or turn out to mix elements, do run once for each layer: where windows or heads are folded
into the batch, some layers are measured both ways to find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.outputs import image_centred
from vit_edge.runtime.tools.images import ImageSet

from .graph_edit import add_initializer, copy_between, describe, find_value, size_per_image
from .measure import iter_outputs, predict
from .progress import Update, ignore
from .quantise.layers import Layer, apply_fallback

MULTIPLICATIONS = 0.1e12
"""Budget of the measurement; a few seconds on 2 CPU cores, except for models of which two images
take longer.
"""
FEWEST, MOST = 2, 64
"""Limits of the number of images. Large models have many tokens and outputs for errors to average
over: two images rank the 48 layers of a ViT-B/16 as twelve do (rank correlation 0.96; 0.97 with
four).
"""
Outputs = NDArray[np.float32]
"""float32 `[1 + layers, images, outputs]`."""
_EXACT = -1
"""Stands for the element of the batch in which nothing is quantised."""
_PROOF_IMAGES, _PROOF_ERROR = 2, 1e-4
"""Images on which layers are measured both ways, and how far the outputs may differ, relative to
their range.
"""


@dataclass(frozen=True)
class Sensitivity:
    """Effect of quantising one layer alone.

    Attributes:
        layer: Its name.
        cost: Its multiplications for one image.
        divergence: Mean Kullback-Leibler divergence of the classes' probabilities, in nats; 0 for
            outputs without classes.
        error: Root mean square of the change of the outputs, relative to that of the image-centred
            outputs.
    """

    layer: str
    cost: int
    divergence: float
    error: float


def images_for(layers: Sequence[Layer]) -> int:
    """The number of images that the measurement can afford."""
    one = sum(layer.cost for layer in layers) * (len(layers) + 1) / 2
    return int(np.clip(MULTIPLICATIONS / max(one, 1), FEWEST, MOST))


def measure_sensitivity(
    exact: ir.Model,
    lowered: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
    update: Update,
    classes: bool = True,
) -> tuple[Sensitivity, ...]:
    """Measures the effect of each of `layers`, in their order.

    Args:
        exact: The fp32 graph before it was quantised.
        lowered: The same with Q/DQ, and fp32 elsewhere; tensors have the same names.
        layers: Those of `find_layers`.
        images: Images to measure on; their labels are not used.
        update: Called with images, or layers, done and their total.
        classes: True if the outputs are logits.
    """
    try:
        outputs = _measure_together(exact, lowered, layers, images, update)
        _require_apart(outputs, exact, lowered, layers, images)
    except EngineError:
        few = images.subset(range((len(images) + 1) // 2))
        outputs = _measure_one_by_one(exact, lowered, layers, few, update)
    spread = max(float(np.sqrt((image_centred(outputs[0]) ** 2).mean())), 1e-30)
    return tuple(
        Sensitivity(
            layer.name,
            layer.cost,
            divergence(changed, outputs[0]) if classes else 0.0,
            float(np.sqrt(((changed - outputs[0]) ** 2).mean())) / spread,
        )
        for layer, changed in zip(layers, outputs[1:], strict=True)
    )


def divergence(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of the probabilities from the reference's, in nats; infinite
    for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    expected, got = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(expected) * (expected - got)).sum(axis=1).mean())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def _measure_together(
    exact: ir.Model,
    lowered: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
    update: Update,
) -> Outputs:
    parts: list[Outputs] = []
    for outputs, *_ in iter_outputs(growing_graph(exact, lowered, layers), images, 1):
        parts.append(outputs)
        update(len(parts), len(images))
    return np.stack(parts, axis=1)


def _require_apart(
    outputs: Outputs,
    exact: ir.Model,
    lowered: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
) -> None:
    """Raises EngineError if a few layers and images show that elements of the batch were mixed.

    That is impossible if each tensor has one row for each image.
    """
    if all(place == _Place(0, 1) for place in _places(exact.graph).values()):
        return
    few = images.subset(range(min(_PROOF_IMAGES, len(images))))
    chosen = sorted({0, len(layers) // 2, len(layers) - 1})
    alone = _measure_one_by_one(exact, lowered, layers, few, ignore, chosen)
    together = outputs[[0, *(1 + number for number in chosen)], : len(few)]
    spread = max(float(np.ptp(alone[0])), 1e-30)
    if not np.allclose(together, alone, rtol=0, atol=_PROOF_ERROR * spread):
        raise EngineError("elements of the batch are mixed")


def _measure_one_by_one(
    exact: ir.Model,
    lowered: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
    update: Update,
    chosen: Sequence[int] | None = None,
) -> Outputs:
    """Measures the same with a graph for each layer; only for the positions `chosen` if given."""
    parts = [predict(exact, images)]
    for layer in layers if chosen is None else [layers[number] for number in chosen]:
        alone = lowered.clone()
        others = [other.name for other in layers if other is not layer]
        apply_fallback(exact, alone, layers, others)
        parts.append(predict(alone, images))
        update(len(parts) - 1, len(layers))
    return np.stack(parts)


def growing_graph(exact: ir.Model, lowered: ir.Model, layers: Sequence[Layer]) -> ir.Model:
    """Returns a graph uint8 `[1, H, W, C]` -> float32 `[1 + layers, outputs]`: first the exact
    outputs, then those with each layer quantised.

    Raises:
        EngineError: if elements have to be selected from a tensor that has no axis of images.
    """
    grown = exact.clone()
    grown.opset_imports.update(lowered.opset_imports)
    writers = {name: number for number, layer in enumerate(layers) for name in layer.writes}
    growth = _Growth(grown.graph, lowered.graph, _places(exact.graph))
    for node in list(grown.graph):
        growth.align(node)
        for value in list(node.outputs):
            value.shape = None  # the batch size changes from here on
            if value.name in writers:
                number = writers[value.name]
                growth.append(value, number, layers[number])
    outputs = exact.graph.outputs[0].shape
    grown.graph.outputs[0].shape = ir.Shape([1 + len(layers), *(outputs or [None, None])[1:]])
    return grown


@dataclass(frozen=True)
class _Place:
    """Place of the images in a tensor: along `axis`, with `rows` consecutive rows for each."""

    axis: int
    rows: int


def _places(graph: ir.Graph) -> dict[str, _Place]:
    """The place of the images in each tensor that has one, by its name."""
    places = {}
    for value in (value for node in graph for value in node.outputs):
        axes = [i for i, size in enumerate(value.shape or ()) if not isinstance(size, int)]
        if len(axes) == 1 and value.shape is not None:
            places[str(value.name)] = _Place(axes[0], size_per_image(value.shape[axes[0]]))
    return places


class _Growth:
    """Elements in the batch of each tensor: `_EXACT`, then numbers of layers in rising order."""

    def __init__(self, graph: ir.Graph, lowered: ir.Graph, places: dict[str, _Place]) -> None:
        self._graph, self._lowered, self._places = graph, lowered, places
        self._elements: dict[ir.Value, tuple[int, ...]] = {graph.inputs[0]: (_EXACT,)}
        self._copied: dict[int, dict[ir.Value, ir.Value]] = {}

    def align(self, node: ir.Node) -> None:
        """Makes all inputs of the node have the same elements, and notes them for its outputs."""
        for value in node.inputs:
            if value is not None and value.name in self._places:  # such as repeated class tokens
                self._elements.setdefault(value, (_EXACT,))
        inputs = [v for v in node.inputs if v is not None and v in self._elements]
        union = tuple(sorted({e for value in inputs for e in self._elements[value]}))
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._elements:
                node.replace_input_with(index, self._select(value, union, node))
        for value in node.outputs:
            if union and value.dtype == ir.DataType.FLOAT:
                self._elements[value] = union

    def append(self, value: ir.Value, number: int, layer: Layer) -> None:
        """Adds to `value` the element in which `layer` is quantised."""
        node, name = value.producer(), f"{value.name}@{layer.name}"
        assert node is not None
        place = self._place(value)
        concat = ir.node("Concat", [value, value], {"axis": place.axis}, name=f"{name}/Concat")
        self._graph.insert_after(node, concat)
        grown = describe(concat.outputs[0], concat.name, None, ir.DataType.FLOAT)
        reads = {
            read: self._select(find_value(self._graph, read), (_EXACT,), concat)
            for read in layer.reads
        }
        write = find_value(self._lowered, str(value.name))
        copied = self._copied.setdefault(number, {})  # Linears of a layer share its quantiser
        changed = copy_between(write, reads, self._graph, concat, f"@{layer.name}", copied)
        value.replace_all_uses_with(grown)
        concat.replace_input_with(0, value)
        concat.replace_input_with(1, changed)
        self._elements[grown] = (*self._elements[value], number)
        self._places[str(grown.name)] = place

    def _select(self, value: ir.Value, elements: tuple[int, ...], before: ir.Node) -> ir.Value:
        """Returns `value` with the given elements; a copy of the exact one for each it lacks."""
        present = self._elements.get(value, ())
        if present == elements:
            return value
        place = self._place(value)
        if not present:
            raise EngineError(f"{value.name} does not depend on the images")
        chosen = [present.index(e) if e in present else 0 for e in elements]
        indices = [e * place.rows + row for e in chosen for row in range(place.rows)]
        name = f"{value.name}@{before.name}"
        constant = add_initializer(self._graph, f"{name}/indices", np.array(indices, np.int64))
        gather = ir.node("Gather", [value, constant], {"axis": place.axis}, name=f"{name}/Gather")
        self._graph.insert_before(before, gather)
        self._elements[gather.outputs[0]] = elements
        self._places[gather.name or ""] = place
        return describe(gather.outputs[0], gather.name, None, ir.DataType.FLOAT)

    def _place(self, value: ir.Value) -> _Place:
        place = self._places.get(str(value.name))
        if place is None:
            raise EngineError(f"{value.name} has no axis of images")
        return place
