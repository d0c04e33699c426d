from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch

from vit_edge.export.onnx_export import Uint8Input, export_onnx
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.variants import Variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .graphs import count, relative_error, run


def test_logits_are_pytorchs_on_photographs(
    exported: ir.Model, model: VisionTransformer, variant: Variant, photographs: ImageSet
) -> None:
    frames = next(photographs.batches(64))
    with torch.inference_mode():
        expected = model(normalise(frames, variant.preprocess)).numpy()
    assert relative_error(run(exported, frames), expected) < 1e-5


@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (0.485, 0.456, 0.406)])
def test_any_normalisation_is_folded_exactly(
    model: VisionTransformer, variant: Variant, frames: np.ndarray, mean: tuple[float, ...]
) -> None:
    preprocess = dataclasses.replace(variant.preprocess, mean=mean, std=(0.229, 0.224, 0.225))
    with torch.inference_mode():
        expected = model(normalise(frames, preprocess)).numpy()
        got = Uint8Input(model, preprocess)(torch.from_numpy(frames)).numpy()
    assert relative_error(got, expected) < 1e-5


def test_folding_leaves_the_model_alone(model: VisionTransformer, variant: Variant) -> None:
    before = model.patch_embed.proj.weight.clone()
    folded = Uint8Input(model, variant.preprocess).vit
    assert torch.equal(model.patch_embed.proj.weight, before)
    assert folded.head.weight is model.head.weight


def test_layer_norm_and_gelu_are_single_operators(exported: ir.Model) -> None:
    operators = count(exported)
    assert operators["LayerNormalization"] == 5
    assert operators["Gelu"] == 2
    assert operators["Softmax"] == 2
    assert not {"Pow", "Sqrt", "Erf", "ReduceMean"} & operators.keys()


def test_input_is_raw_pixels_with_a_free_batch(exported: ir.Model, frames: np.ndarray) -> None:
    (images,) = exported.graph.inputs
    assert images.dtype == ir.DataType.UINT8
    assert [str(size) for size in images.shape or ()] == ["batch", "32", "32", "3"]
    assert run(exported, frames[:1]).shape == (1, 10)


def test_two_exports_are_the_same_bytes(
    optimised: ir.Model, model: VisionTransformer, variant: Variant
) -> None:
    from vit_edge.export.passes import optimise

    again = export_onnx(model, variant.preprocess, "logits")
    optimise(again)
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(optimised).SerializeToString()
