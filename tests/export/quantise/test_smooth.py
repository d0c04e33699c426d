"""Smoothing is exact, and takes outliers out of INT8."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch

from vit_edge.calibration.collect import Calibration, LayerSamples
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.precision.int8 import INT8
from vit_edge.export.quantise.layer_search import search_smoothing, smoothing_factor
from vit_edge.export.quantise.linear_layers import (
    LinearSource,
    NormSource,
    find_linear_layers,
    find_scalable,
)
from vit_edge.export.quantise.linears import smooth
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.config import BlockOptions
from vit_edge.vit.datasets import samples
from vit_edge.vit.hints import HALF
from vit_edge.vit.vision_transformer import VisionTransformer

from ...calibrate import calibrate
from ..graphs import relative_error, run
from ..test_relatives import shaken

PREPROCESS = Preprocess(32, 32, 3, 1.0, "bicubic", *HALF)


def with_outliers(model: VisionTransformer, strength: float) -> VisionTransformer:
    """The same function, but some channels behind each LayerNorm are that much larger."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for block in changed.blocks:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                gain = torch.ones_like(norm.weight)
                gain[::17] = strength
                norm.weight.mul_(gain)
                norm.bias.mul_(gain)
                linear.weight.div_(gain)
    return changed


def exported(model: VisionTransformer) -> ir.Model:
    graph = export_onnx(model, PREPROCESS, "logits")
    optimise(graph)
    return graph


@pytest.fixture(scope="module")
def outliers(model: VisionTransformer) -> ir.Model:
    return exported(with_outliers(model, 60.0))


@pytest.fixture(scope="module")
def observed(outliers: ir.Model) -> Calibration:
    images = samples("calibration", PREPROCESS).subset(range(32))
    return calibrate(outliers, images, DEFAULT_METHOD)


def test_layers_know_what_they_could_be_scaled_by(optimised: ir.Model) -> None:
    kinds = [type(find_scalable(layer)) for layer in find_linear_layers(optimised.graph)]
    assert kinds == [NormSource, LinearSource, NormSource, type(None)] * 2


def test_the_up_branch_of_a_gated_mlp_can_be_scaled_too() -> None:
    graph = exported(shaken(block=BlockOptions(mlp="swiglu")))
    sources = [find_scalable(layer) for layer in find_linear_layers(graph.graph)]
    up = sources[3]
    assert isinstance(up, LinearSource)
    assert (up.columns.start, up.columns.stop) == (256, 512)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_scaling_channels_and_rows_changes_no_logit(mlp: str, frames: np.ndarray) -> None:
    graph = exported(shaken(block=BlockOptions(mlp=mlp)))
    before = run(graph, frames)
    generator, scaled = np.random.default_rng(0), 0
    for layer in find_linear_layers(graph.graph):
        source = find_scalable(layer)
        if source is None:
            continue
        factor = np.exp(generator.uniform(-2, 2, layer.weights.shape[0])).astype(np.float32)
        source.scale(graph.graph, 1 / factor)
        for linear in find_layer(graph, layer.name).linears:
            weight = linear.weight.const_value
            assert weight is not None
            linear.weight.const_value = ir.tensor(weight.numpy() * factor[:, None])
        scaled += 1
    assert scaled == (8 if mlp == "swiglu" else 6)
    assert relative_error(run(graph, frames), before) < 1e-5


def find_layer(graph: ir.Model, name: str):  # type: ignore[no-untyped-def]
    return next(layer for layer in find_linear_layers(graph.graph) if layer.name == name)


def test_outliers_move_and_the_graph_computes_the_same(
    outliers: ir.Model, observed: Calibration, frames: np.ndarray
) -> None:
    graph = outliers.clone()
    before = run(graph, frames)
    for layer in find_linear_layers(graph.graph):
        seen = observed.samples[layer.name]
        found = search_smoothing(seen, layer.weights, INT8().scheme)
        rows = smooth(graph.graph, layer, seen, found).rows
        assert np.abs(rows).max() <= 1.001 * np.abs(seen.channel_amax).max()
        if isinstance(find_scalable(layer), NormSource):
            spread = [np.abs(r).max(axis=0).max() / np.median(np.abs(r)) for r in (rows, seen.rows)]
            assert spread[0] < 0.5 * spread[1], layer.name
    assert relative_error(run(graph, frames), before) < 1e-5


def test_int8_of_a_model_with_outliers_is_as_good_as_without(
    model: VisionTransformer, outliers: ir.Model, observed: Calibration
) -> None:
    frames = next(samples("calibration", PREPROCESS).batches(32))
    expected = run(exported(model), frames)
    plain = calibrate(outliers, samples("calibration", PREPROCESS).subset(range(32)), "minmax")
    errors = {
        name: relative_error(run(INT8().lower(outliers, found)["cpu"], frames), expected)
        for name, found in (("search", observed), ("minmax", plain))
    }
    assert errors["search"] < 0.03
    assert errors["minmax"] > 3 * errors["search"]


def test_what_has_no_outliers_is_left_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    found = search_smoothing(LayerSamples(rows, np.abs(rows).max(axis=0)), weight, INT8().scheme)
    assert found.alpha is None
    assert (found.factor == 1).all()


def test_an_activation_that_others_read_is_not_scaled(optimised: ir.Model) -> None:
    graph = ir.from_proto(ir.to_proto(optimised))
    layer = find_linear_layers(graph.graph)[0]
    graph.graph.append(ir.node("Identity", [layer.activation]))
    assert find_scalable(layer) is None


def test_quiet_channels_are_not_made_larger_than_typical_ones() -> None:
    weight = np.ones((8, 4), np.float32)
    amax = np.array([1e-3, 0.1, 1, 1, 1, 1, 1, 50], np.float32)
    factor = smoothing_factor(amax, weight, 0.9)
    np.testing.assert_allclose(factor[:7], factor[2], rtol=1e-6)
    assert factor[7] > 20 * factor[2]
