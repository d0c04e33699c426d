"""PyTorch to ONNX: raw pixels in, normalisation folded into the patch embedding."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.vision_transformer import VisionTransformer

OPSET = 20
INPUT_NAME = "images"
CENTRE = 128.0
"""Subtracted from the pixels: centred on zero, pixels of 8 bits and weights of few bits lose the
least precision in fp16.
"""


class Uint8Input(nn.Module):
    """A ViT that takes frames uint8 `[B, height, width, channels]`, as a camera gives them."""

    def __init__(self, model: VisionTransformer, preprocess: Preprocess) -> None:
        super().__init__()
        self.vit = fold_normalisation(model, preprocess)

    def forward(self, images: Tensor) -> Tensor:
        centred = images.to(torch.float32) - CENTRE
        return self.vit(centred.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def fold_normalisation(model: VisionTransformer, preprocess: Preprocess) -> VisionTransformer:
    """Returns the same ViT for pixels minus `CENTRE` instead of normalised ones; it shares all
    weights but two.

    The patch embedding W ((p / 255 - mean) / std) + b equals W' (p - c) + b' with W' = W / (255
    std) and b' = b + sum(W' (c - 255 mean)). This is exact because its convolution has no padding.
    """
    folded = copy.copy(model)
    folded._modules = {**model._modules, "patch_embed": copy.deepcopy(model.patch_embed)}
    projection = folded.patch_embed.proj
    mean, std = (
        torch.tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1)
        for v in (preprocess.mean, preprocess.std)
    )
    weight = projection.weight.data.double() / (255 * std)
    assert projection.bias is not None
    bias = projection.bias.data.double() + (weight * (CENTRE - 255 * mean)).sum(dim=(1, 2, 3))
    projection.weight.data, projection.bias.data = weight.float(), bias.float()
    return folded


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> Any:
    """scaled_dot_product_attention as the plain MatMul, Softmax, MatMul that every runtime knows
    how to fuse.

    Source: ONNX MatMul, Softmax. The model calls it without mask, dropout or scale.
    """
    scale = op.Constant(value_float=float(q.shape[-1]) ** -0.5)
    scores = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(scores, axis=-1), v)


def export_onnx(model: VisionTransformer, preprocess: Preprocess, output: str) -> ir.Model:
    """Exports to ONNX opset 20 with a dynamic batch: `images` uint8 `[batch, H, W, C]` -> float32
    `[batch, outputs]`, which is named `output`.

    Source: `torch.onnx.export(dynamo=True)`, which keeps LayerNormalization and Gelu as single ops.
    """
    example = torch.zeros((2, *preprocess.shape), dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            Uint8Input(model, preprocess).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=[output],
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention
            },
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings about packages that it could use and its own deprecations,
    which a user cannot act on.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
