"""Layers behind a GELU divide their input where the model's outputs gain by it, and only there."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.precision.quantised import EFFORTS, FAST, Quantised, quantise_model
from vit_edge.export.progress import ignore
from vit_edge.export.quantise.algorithms import choose_costly
from vit_edge.export.quantise.layers import apply_fallback, find_layers
from vit_edge.export.quantise.linear_layers import find_linear_layers, is_behind_gelu
from vit_edge.export.quantise.linears import divide_all
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.datasets import samples
from vit_edge.vit.vision_transformer import VisionTransformer

from ...calibrate import calibrate
from ..graphs import quantise, relative_error, run
from .test_smooth import PREPROCESS, exported


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return samples("calibration", PREPROCESS).subset(range(32))


@pytest.fixture(scope="module")
def loud(model: VisionTransformer) -> ir.Model:
    """The model with one channel behind a GELU 40 times as large as the others, and read little."""
    changed = copy.deepcopy(model)
    mlp = changed.blocks[1].mlp
    with torch.no_grad():
        mlp.fc1.bias[7] = 40.0
        mlp.fc2.weight[:, 7] *= 0.1
    return exported(changed)


@pytest.fixture(scope="module")
def observed(loud: ir.Model, images: ImageSet) -> Calibration:
    return calibrate(loud, images, DEFAULT_METHOD)


@pytest.fixture(scope="module")
def quantised(loud: ir.Model, observed: Calibration) -> Quantised:
    return quantise("int8", loud, observed)


def behind_gelus(graph: ir.Graph) -> list[str]:
    return [layer.name for layer in find_linear_layers(graph) if is_behind_gelu(layer)]


def divided(graph: ir.Graph) -> list[str]:
    """Activations that a layer multiplies channel by channel before it quantises them."""
    return [
        str(node.inputs[0].name)
        for node in graph
        if node.op_type == "Mul" and node.inputs[0] and str(node.name).endswith("@scaled")
    ]


def test_a_loud_channel_is_divided_inside_the_quantised_layer(
    loud: ir.Model, quantised: Quantised, frames: np.ndarray
) -> None:
    exact, alone = quantised.exact, quantised.lowered.clone()
    name = behind_gelus(loud.graph)[1]
    layers = find_layers(exact.graph, alone.graph)
    apply_fallback(exact, alone, layers, [x.name for x in layers if x.reads != (name,)])
    assert divided(alone.graph) == [name]
    assert not divided(exact.graph)
    assert relative_error(run(alone, frames), run(loud, frames)) < 0.01


def test_a_layer_that_falls_back_multiplies_nothing(
    quantised: Quantised, loud: ir.Model, frames: np.ndarray
) -> None:
    graph = quantised.lowered.clone()
    layers = find_layers(quantised.exact.graph, graph.graph)
    apply_fallback(quantised.exact, graph, layers, [layer.name for layer in layers])
    assert not divided(graph.graph)
    assert relative_error(run(graph, frames), run(loud, frames)) < 1e-4


def test_what_gains_the_outputs_nothing_is_left_alone(
    quantised: Quantised, images: ImageSet
) -> None:
    lowered = quantised.lowered
    layers = find_layers(quantised.exact.graph, lowered.graph)
    assert choose_costly(quantised.exact, lowered, lowered, layers, images, 3.0, ignore) == ()


def test_the_outputs_choose_for_each_layer(
    quantised: Quantised, loud: ir.Model, images: ImageSet, observed: Calibration
) -> None:
    """Of two ways, one with a layer that is far too coarse, the other one is taken there."""
    lowered, coarse = quantised.lowered, quantised.lowered.clone()
    layers = find_layers(quantised.exact.graph, lowered.graph)
    chosen = layers[3]
    read = coarse.graph.node(_quantiser_of(coarse.graph, chosen.reads[0])).inputs[1]
    assert read is not None
    assert read.const_value is not None
    read.const_value = ir.tensor(np.array(30 * read.const_value.numpy(), np.float32))
    gain = choose_costly(quantised.exact, coarse, lowered, layers, images, 3.0, ignore)
    assert gain == (chosen.name,)
    assert choose_costly(quantised.exact, lowered, coarse, layers, images, 3.0, ignore) == ()


@pytest.mark.parametrize("effort", EFFORTS)
def test_more_effort_divides_where_less_is_gained(
    effort: str, loud: ir.Model, observed: Calibration
) -> None:
    scheme = PRECISIONS["int8"].scheme  # type: ignore[attr-defined]
    gain = EFFORTS[effort].gain_of_division
    graph = quantise_model(loud, observed, scheme, ignore, gain).lowered.graph
    thorough = quantise_model(loud, observed, scheme, ignore, 1.0).lowered.graph
    if effort == FAST:
        assert not divided(graph)
    else:
        assert behind_gelus(loud.graph)[1] in divided(graph)
        assert set(divided(graph)) <= set(divided(thorough))


def _quantiser_of(graph: ir.Graph, name: str) -> str:
    """Name of the QuantizeLinear that reads the activation, whatever lies between."""
    values = {v.name: v for node in graph for v in node.outputs}
    readers = list(values[name].consumers())
    while readers[0].op_type != "QuantizeLinear":
        readers = list(readers[0].outputs[0].consumers())
    return str(readers[0].name)


def test_only_activations_on_a_grid_are_divided(loud: ir.Model, observed: Calibration) -> None:
    int8, int4 = (PRECISIONS[name].scheme for name in ("int8", "int4"))  # type: ignore[attr-defined]
    divided = divide_all(loud.graph, observed.samples, int8, ignore)
    assert behind_gelus(loud.graph)[1] in divided
    assert divide_all(loud.graph, observed.samples, int4, ignore) == {}
