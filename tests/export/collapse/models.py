"""Models that the faults are put into and that must not raise false alarms."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from vit_edge.export.graph_edit import array
from vit_edge.export.measure import predict
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.reference import compute_reference, vit_oracle
from vit_edge.runtime.outputs import spread
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.datasets import digits, samples
from vit_edge.vit.hints import IMAGENET
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

CONFIGS: dict[str, dict[str, object]] = {
    "plain": {},
    "layer scale": {"block": BlockOptions(layer_scale=True)},
    "QK norm": {"block": BlockOptions(qk_norm=True)},
    "DINOv2": {
        "num_classes": 0,
        "embedding": EmbeddingOptions(registers=3),
        "block": BlockOptions(layer_scale=True, mlp="swiglu"),
    },
    "CLIP": {
        "num_classes": 0,
        "embedding": EmbeddingOptions(norm=True),
        "block": BlockOptions(norm_eps=1e-5, mlp="quick_gelu"),
        "readout": ReadoutOptions(representation_size=24, representation="linear"),
    },
    "average": {"embedding": EmbeddingOptions(False), "readout": ReadoutOptions(pool="mean")},
}
SIZES = {
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "n_heads": 4,
}
OUTLIERS = 50.0
SHARE = 0.02


@dataclass(frozen=True)
class Built:
    """A model, exported: the optimised fp32 graph, images, and PyTorch's answers to them."""

    model: VisionTransformer
    preprocess: Preprocess
    fp32: ir.Model
    calibration: ImageSet
    images: ImageSet
    reference: NDArray[np.float32]

    @property
    def scale(self) -> float:
        return spread(self.reference)


def build(model: VisionTransformer, preprocess: Preprocess, images: int) -> Built:
    data = digits if preprocess.channels == 1 else samples
    graph = export_onnx(model, preprocess, "logits")
    optimise(graph)
    evaluation = data("evaluation", preprocess).subset(range(images))
    oracle = vit_oracle(model, preprocess)
    reference = compute_reference(oracle, evaluation, lambda done, total: None)
    calibration = data("calibration", preprocess).subset(range(32))
    return Built(model, preprocess, graph, calibration, evaluation, reference)


def random_model(name: str, seed: int) -> tuple[VisionTransformer, Preprocess]:
    """Random weights, biases, LayerNorms and LayerScales too, so that a lost one shows."""
    config = ViTConfig(**{**SIZES, **CONFIGS[name]})  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = VisionTransformer.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            spread = 0.3 if "gamma" in key else 0.1
            parameter.add_(spread * torch.randn_like(parameter))
    height, width = config.image_size
    return model, Preprocess(height, width, 3, 1.0, "bicubic", *IMAGENET)


def digits_preprocess() -> Preprocess:
    return find_variant("vit_digits").preprocess


def with_outliers(model: VisionTransformer) -> VisionTransformer:
    """The same function; a few channels behind every LayerNorm are 50 times larger."""
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in changed.blocks:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                width = norm.weight.numel()
                gain = torch.ones(width)
                chosen = torch.randperm(width, generator=generator)[: max(2, int(SHARE * width))]
                gain[chosen] = OUTLIERS
                norm.weight.mul_(gain)
                norm.bias.mul_(gain)
                linear.weight.div_(gain)
    return changed


def with_large_stream(model: VisionTransformer, factor: float) -> VisionTransformer:
    """The same function, but for the epsilons; the residual stream is `factor` times larger."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in changed.named_parameters():
            joins = key.endswith(("_token", "pos_embed")) or ".proj." in key or ".fc2." in key
            if joins:
                parameter.mul_(factor)
    return changed


def reseeded(built: Built, seed: int) -> Built:
    """The same architecture with other weights, without the time of an export.

    The graph stands for PyTorch: its export is not what is looked at.
    """
    fp32, generator = built.fp32.clone(), np.random.default_rng(seed)
    for value in fp32.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and array(value).size > 1:
            data = array(value)
            noise = generator.standard_normal(data.shape) * (0.7 * data.std() + 0.02)
            value.const_value = ir.tensor((data + noise).astype(np.float32), name=value.name)
    return dataclasses.replace(built, fp32=fp32, reference=predict(fp32, built.images))
