"""Compares a loaded checkpoint with the implementation that it comes from; for tests and
benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from vit_edge.vit.checkpoints import build_model, find_architecture, read_checkpoint
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

# Width, heads, patch size and depth.
SIZES = {
    "Ti/16": (192, 3, 16, 12),
    "S/16": (384, 6, 16, 12),
    "B/16": (768, 12, 16, 12),
    "B/32": (768, 12, 32, 12),
    "L/16": (1024, 16, 16, 24),
    "H/14": (1280, 16, 14, 32),
}


def shake(oracle: nn.Module) -> nn.Module:
    """Moves every parameter, so that a lost bias, LayerNorm or gain shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return oracle.eval()


def load(path: Path, **hints: Any) -> VisionTransformer:
    checkpoint = read_checkpoint(path)
    architecture = find_architecture(checkpoint, ModelHints(**hints))
    weights = (
        checkpoint.tensors,
        checkpoint.source,
        architecture.native,
        architecture.hints.antialias,
    )
    return build_model(architecture.config, *weights)


def difference(
    model: VisionTransformer, oracle: Callable[[torch.Tensor], torch.Tensor], *size: int
) -> float:
    """Returns the largest difference relative to the largest output."""
    torch.manual_seed(2)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        got, expected = model(images), oracle(images)
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def save(oracle: nn.Module, path: Path) -> Path:
    state = {name: value.contiguous() for name, value in oracle.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return path


BIG_VISION = {
    "Transformer/posembed_input/pos_embedding": "pos_embedding",
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}
"""What big_vision calls otherwise."""


def to_big_vision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the arrays to big_vision's names."""
    renamed = {}
    for name, array in arrays.items():
        for old, new in BIG_VISION.items():
            name = name.replace(old, new)
        renamed[f"params/{name}"] = array
    return renamed


def to_jax(state: dict[str, torch.Tensor], heads: int) -> dict[str, np.ndarray]:
    """Brings timm's tensors to the original JAX code's names and layout."""
    arrays, width = {}, state["cls_token"].shape[-1]
    names = {
        "patch_embed.proj": "embedding",
        "norm": "Transformer/encoder_norm",
        "norm1": "LayerNorm_0",
        "norm2": "LayerNorm_2",
        "attn.proj": "MultiHeadDotProductAttention_1/out",
        "mlp.fc1": "MlpBlock_3/Dense_0",
        "mlp.fc2": "MlpBlock_3/Dense_1",
        "head": "head",
        "pre_logits.fc": "pre_logits",
    }
    for name, tensor in state.items():
        array, (layer, _, kind) = tensor.numpy(), name.rpartition(".")
        block = ""
        if layer.startswith("blocks."):
            _, index, layer = layer.split(".", 2)
            block = f"Transformer/encoderblock_{index}/"
        if layer == "attn.qkv":
            shape = (width, heads, width // heads) if kind == "weight" else (heads, width // heads)
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                target = "kernel" if kind == "weight" else "bias"
                key = f"{block}MultiHeadDotProductAttention_1/{part}/{target}"
                arrays[key] = piece.T.reshape(shape)
        elif name == "cls_token":
            arrays["cls"] = array
        elif name == "pos_embed":
            arrays["Transformer/posembed_input/pos_embedding"] = array
        elif "norm" in layer:
            arrays[f"{block}{names[layer]}/{'scale' if kind == 'weight' else kind}"] = array
        elif kind == "bias":
            arrays[f"{block}{names[layer]}/bias"] = array
        else:
            kernel = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            if layer == "attn.proj":
                kernel = kernel.reshape(heads, width // heads, width)
            arrays[f"{block}{names[layer]}/kernel"] = kernel
    return arrays
