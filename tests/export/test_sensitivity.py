"""One pass tells the same as quantising part after part."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.quantise.layers import apply_fallback, find_layers
from vit_edge.export.sensitivity import FEWEST, MOST, growing_graph, images_for, measure_sensitivity
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions
from vit_edge.vit.hints import HALF

from ..calibrate import calibrate
from .graphs import quantise, run
from .test_relatives import shaken

RELATIVES: dict[str, dict[str, object]] = {
    "plain": {"n_heads": 4},
    "gated MLP, registers": {
        "embedding": EmbeddingOptions(registers=2),
        "block": BlockOptions(mlp="swiglu", layer_scale=True),
    },
    "normed queries, mean": {
        "block": BlockOptions(qk_norm=True),
        "readout": ReadoutOptions(pool="mean"),
    },
}


@pytest.mark.parametrize("name", ["int8", "int8_attention", "fp8", "int4", "nvfp4"])
@pytest.mark.parametrize("relative", RELATIVES)
def test_each_effect_is_that_of_the_part_alone(
    photographs: ImageSet, relative: str, name: str
) -> None:
    graph = relative_graph(relative)
    few = photographs.subset(range(6))
    quantised = quantise(name, graph, calibrate(graph, few, DEFAULT_METHOD, (name,)))
    exact, lowered = quantised.exact, quantised.lowered
    layers = find_layers(exact.graph, lowered.graph)
    frames = next(few.batches(1))
    got = run(growing_graph(exact, lowered, layers), frames)
    assert len(got) == len(layers) + 1
    np.testing.assert_allclose(got[0], run(exact, frames)[0], rtol=1e-4, atol=1e-5)
    for place in (0, len(layers) // 2, len(layers) - 1):
        alone = lowered.clone()
        others = [layer.name for layer in layers if layer is not layers[place]]
        apply_fallback(exact, alone, layers, others)
        np.testing.assert_allclose(
            got[place + 1], run(alone, frames)[0], rtol=1e-3, atol=2e-4, err_msg=others[0]
        )


def relative_graph(relative: str) -> ir.Model:
    model, preprocess = shaken(**RELATIVES[relative]), Preprocess(32, 32, 3, 1.0, "bicubic", *HALF)
    graph = export_onnx(model, preprocess, "logits")
    optimise(graph)
    return graph


def test_a_damaged_part_is_the_most_sensitive(
    optimised: ir.Model, calibration: Calibration, photographs: ImageSet
) -> None:
    quantised = quantise("int8", optimised, calibration)
    scale = quantised.lowered.graph.initializers["blocks.1.norm2/LayerNormalization/scale"]
    scale.const_value = ir.tensor(scale.const_value.numpy() / 30, name=scale.name)
    layers = find_layers(quantised.exact.graph, quantised.lowered.graph)
    found = measure_sensitivity(
        quantised.exact, quantised.lowered, layers, photographs.subset(range(4)), lambda d, t: None
    )
    worst = max(found, key=lambda s: s.error)
    assert worst.layer == "blocks.1.mlp.fc1"
    assert worst.error > 10 * float(np.median([s.error for s in found]))
    assert worst.divergence == max(s.divergence for s in found)


def test_few_images_do_for_large_models(optimised: ir.Model, calibration: Calibration) -> None:
    quantised = quantise("int8", optimised, calibration)
    layers = find_layers(quantised.exact.graph, quantised.lowered.graph)
    assert images_for(layers) == MOST
    large = [type(layer)(layer.name, layer.reads, layer.writes, 10**12) for layer in layers]
    assert images_for(large) == FEWEST
