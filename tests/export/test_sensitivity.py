"""One pass tells the same as quantising part after part."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.precision import find_precision
from vit_edge.export.quantise.units import find_units, raise_units
from vit_edge.export.sensitivity import FEWEST, MOST, growing_graph, images_for, measure_sensitivity
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions
from vit_edge.vit.hints import HALF

from ..calibrate import calibrate
from .graphs import run
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


@pytest.mark.parametrize("name", ["int8", "int8_attention", "fp8", "int4"])
@pytest.mark.parametrize("relative", RELATIVES)
def test_each_effect_is_that_of_the_part_alone(
    photographs: ImageSet, relative: str, name: str
) -> None:
    graph, precision = relative_graph(relative), find_precision(name)
    few = photographs.subset(range(6))
    quantised = precision.quantise(  # type: ignore[attr-defined]
        graph, calibrate(graph, few, DEFAULT_METHOD, (name,))
    )
    exact, lowered = quantised.exact, quantised.lowered
    units = find_units(exact.graph, lowered.graph)
    frames = next(few.batches(1))
    got = run(growing_graph(exact, lowered, units), frames)
    assert len(got) == len(units) + 1
    np.testing.assert_allclose(got[0], run(exact, frames)[0], rtol=1e-4, atol=1e-5)
    for place in (0, len(units) // 2, len(units) - 1):
        alone = lowered.clone()
        others = [unit.name for unit in units if unit is not units[place]]
        raise_units(exact, alone, units, others)
        np.testing.assert_allclose(
            got[place + 1], run(alone, frames)[0], rtol=1e-3, atol=2e-4, err_msg=others[0]
        )


def relative_graph(relative: str) -> ir.Model:
    model, preprocess = shaken(**RELATIVES[relative]), Preprocess(32, 32, 3, 1.0, "bicubic", *HALF)
    graph = export_onnx(model, preprocess, "logits")
    optimise(graph)
    return graph


def test_a_damaged_part_is_the_most_sensitive(
    optimised: ir.Model, calibration: object, photographs: ImageSet
) -> None:
    quantised = find_precision("int8").quantise(optimised, calibration)  # type: ignore[attr-defined]
    scale = quantised.lowered.graph.initializers["blocks.1.norm2/LayerNormalization/scale"]
    scale.const_value = ir.tensor(scale.const_value.numpy() / 30, name=scale.name)
    units = find_units(quantised.exact.graph, quantised.lowered.graph)
    found = measure_sensitivity(
        quantised.exact, quantised.lowered, units, photographs.subset(range(4)), lambda d, t: None
    )
    worst = max(found, key=lambda s: s.error)
    assert worst.unit == "blocks.1.mlp.fc1"
    assert worst.error > 10 * float(np.median([s.error for s in found]))
    assert worst.divergence == max(s.divergence for s in found)


def test_few_images_do_for_large_models(optimised: ir.Model, calibration: object) -> None:
    quantised = find_precision("int8").quantise(optimised, calibration)  # type: ignore[attr-defined]
    units = find_units(quantised.exact.graph, quantised.lowered.graph)
    assert images_for(units) == MOST
    large = [type(u)(u.name, u.reads, u.writes, 10**12) for u in units]
    assert images_for(large) == FEWEST
