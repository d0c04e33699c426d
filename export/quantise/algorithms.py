"""The algorithm that quantises the Linears of a graph for each scheme, and the choice between two
ways to quantise a layer, by what each alone does to the model's outputs.

A layer's own error shows what its average token loses. Yet all other tokens may depend on a few
with massive activations; only the outputs of the whole model show errors in those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import Calibration, Samples
from vit_edge.export.measure import iter_outputs
from vit_edge.export.outputs import join_outputs
from vit_edge.export.progress import Update, ignore, stretch
from vit_edge.export.sensitivity import images_for, measure_sensitivity
from vit_edge.runtime.outputs import MAP, TOKENS, VALUE, OutputSpec, spread
from vit_edge.runtime.tools.images import ImageSet

from . import float4_search, linears
from .float4 import Float4Scheme
from .float4_qdq import IR_VERSION
from .grid import Floats, Grid, Scheme, SecondMoments, round_to_nearest
from .layers import Layer, find_layers
from .linear_layers import LayerExplanation
from .linears import Smoothed, divide_all, quantise, round_all

MOST_IMAGES = 8
"""Most images to compare outputs on, spread over the calibration images; fewer for large models."""
_KINDS = (VALUE, VALUE, TOKENS, MAP)
"""A kind of output for each number of dimensions: here only the shapes matter."""


def divide_where_outputs_gain(
    exact: ir.Model,
    calibration: Calibration,
    smoothed: Mapping[str, Smoothed],
    scheme: Scheme,
    min_gain: float,
    update: Update,
) -> dict[str, Smoothed]:
    """Finds the layers that should divide their input because this improves the model's outputs.

    Args:
        exact: The fp32 graph after smoothing.
        calibration: Its samples and images.
        smoothed: All layers as smoothing left them.
        scheme: The grids.
        min_gain: See `choose_costly`.
        update: Called with work done and work in all.
    """
    divided = divide_all(exact.graph, calibration.samples, scheme, ignore)
    if not divided:
        return {}
    graphs = list[ir.Model]()
    for ways in ({name: smoothed[name] for name in divided}, divided):
        graphs.append(exact.clone())
        rounded = round_all(exact.graph, ways, scheme, ignore, _quickly)
        quantise(graphs[-1].graph, rounded, scheme)
    layers = find_layers(exact.graph, graphs[0].graph)
    gain = choose_costly(exact, graphs[0], graphs[1], layers, calibration.images, min_gain, update)
    names = {layer.reads[0] for layer in layers if layer.name in gain}
    return {name: way for name, way in divided.items() if name in names}


def _quickly(weight: Floats, scales: Floats, moments: SecondMoments, grid: Grid) -> Floats:
    """Rounds weights to nearest, which is enough to compare ways of quantising inputs."""
    return round_to_nearest(weight, scales, grid)


def choose_costly(
    exact: ir.Model,
    plain: ir.Model,
    costly: ir.Model,
    layers: Sequence[Layer],
    images: ImageSet,
    min_gain: float,
    update: Update,
) -> tuple[str, ...]:
    """Returns the names of the layers whose costly form improves the outputs enough.

    Args:
        exact: The fp32 graph.
        plain: The same with `layers` quantised.
        costly: The same with `layers` quantised in a form that takes one more operator.
        layers: The layers, in graph order; they read and write tensors of the same names.
        images: The calibration images.
        min_gain: Factor by which the squared error of the outputs must fall for the costly form to
            be chosen.
        update: Called with work done and work in all.
    """
    few = images.subset(_spread_over(min(MOST_IMAGES, images_for(layers), len(images)), images))
    outputs = _outputs(exact, few)
    joined, errors = join_outputs(exact, outputs), []
    for number, lowered in enumerate((plain, costly)):
        other, part = join_outputs(lowered, outputs), stretch(update, number, 2)
        measured = measure_sensitivity(joined, other, layers, few, part, classes=False)
        errors.append(np.array([sensitivity.error for sensitivity in measured]))
    # Where neither form changes the outputs the cheap one is chosen.
    gains = errors[0] ** 2 > min_gain * errors[1] ** 2
    return tuple(layer.name for layer, gain in zip(layers, gains, strict=True) if gain)


def _spread_over(count: int, images: ImageSet) -> Sequence[int]:
    return [number * len(images) // count for number in range(count)]


def _outputs(model: ir.Model, images: ImageSet) -> tuple[OutputSpec, ...]:
    """Outputs of the graph with their scales on `images`."""
    values = [np.concatenate(parts) for parts in zip(*iter_outputs(model, images), strict=True)]
    return tuple(
        OutputSpec(str(output.name), _KINDS[value.ndim - 1], value.shape[1:], spread(value))
        for output, value in zip(model.graph.outputs, values, strict=True)
    )


Rounded = TypeVar("Rounded")
"""An algorithm's decisions about how a layer is rounded."""


@dataclass(frozen=True)
class Algorithm(Generic[Rounded]):
    """A way to quantise; see the functions of the same names in `linears`.

    Attributes:
        divide: See `divide_where_outputs_gain`; None where scales of blocks adapt to the channels.
        ir_version: The first ONNX IR version that has the types.
    """

    smooth_all: Callable[[ir.Graph, Samples, Scheme, Update], dict[str, Smoothed]]
    divide: (
        Callable[
            [ir.Model, Calibration, Mapping[str, Smoothed], Scheme, float, Update],
            dict[str, Smoothed],
        ]
        | None
    )
    round_all: Callable[[ir.Graph, Mapping[str, Smoothed], Scheme, Update], dict[str, Rounded]]
    quantise: Callable[[ir.Graph, Mapping[str, Rounded], Scheme], None]
    explain: Callable[
        [ir.Graph, Samples, Mapping[str, Smoothed], Mapping[str, Rounded]],
        tuple[LayerExplanation, ...],
    ]
    quantise_by_table: Callable[[ir.Graph, Mapping[str, float], Scheme], None]
    ir_version: int


_ONE_SCALE = Algorithm(
    linears.smooth_all,
    divide_where_outputs_gain,
    linears.round_all,
    linears.quantise,
    linears.explain,
    linears.quantise_by_table,
    0,
)
_FLOAT4 = Algorithm(
    float4_search.smooth_all,
    None,
    float4_search.round_all,
    float4_search.quantise,
    float4_search.explain,
    float4_search.quantise_by_table,
    IR_VERSION,
)


def algorithm_of(scheme: Scheme) -> Algorithm[Any]:
    """Returns the algorithm of NVFP4, or the one of schemes whose scales are all constants."""
    return _FLOAT4 if isinstance(scheme, Float4Scheme) else _ONE_SCALE
