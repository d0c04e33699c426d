"""Chooses between two ways of quantising a layer, by what each alone does to the model's outputs.

A layer's own error says what its average token loses. What all others hang on may be a few tokens,
those of massive activations: the outputs of the whole model tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from vit_edge.export.measure import iter_outputs
from vit_edge.export.outputs import join_outputs
from vit_edge.export.progress import ignore
from vit_edge.export.sensitivity import measure_sensitivity
from vit_edge.runtime.outputs import MAP, TOKENS, VALUE, OutputSpec, spread
from vit_edge.runtime.tools.images import ImageSet

from .layers import Layer

IMAGES = 8
"""Images that are compared on, spread over the calibration images."""
MIN_GAIN = 3.0
"""Factor by which the squared error of the outputs must fall for the way that costs more. Less than
that is lost again, and more, on images that go further than those of the calibration.
"""
_KINDS = (VALUE, VALUE, TOKENS, MAP)
"""A kind of output for each number of dimensions: here only their sizes count."""


def choose_costly(
    exact: ir.Model,
    plain: ir.Model,
    costly: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
) -> tuple[str, ...]:
    """Returns the names of the layers whose costly way the outputs gain by.

    Args:
        exact: The fp32 graph.
        plain: The same with `layers` quantised.
        costly: The same with `layers` quantised in a way that takes an operator more.
        layers: The layers, in graph order; they read and write tensors of the same names.
        images: The calibration images.
    """
    few = images.subset(_spread_over(len(images)))
    outputs = _outputs(exact, few)
    errors = []
    for lowered in (plain, costly):
        one, other = join_outputs(exact, outputs), join_outputs(lowered, outputs)
        measured = measure_sensitivity(one, other, layers, few, ignore, classes=False)
        errors.append(np.array([sensitivity.error for sensitivity in measured]))
    gains = errors[0] ** 2 >= MIN_GAIN * errors[1] ** 2
    return tuple(layer.name for layer, gain in zip(layers, gains, strict=True) if gain)


def _spread_over(images: int) -> Sequence[int]:
    count = min(IMAGES, images)
    return [number * images // count for number in range(count)]


def _outputs(model: ir.Model, images: ImageSet) -> tuple[OutputSpec, ...]:
    """Outputs of the graph with their scales on `images`."""
    values = [np.concatenate(parts) for parts in zip(*iter_outputs(model, images), strict=True)]
    return tuple(
        OutputSpec(str(output.name), _KINDS[value.ndim - 1], value.shape[1:], spread(value))
        for output, value in zip(model.graph.outputs, values, strict=True)
    )
