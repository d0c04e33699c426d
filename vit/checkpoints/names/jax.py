"""Names of the original JAX code (google-research/vision_transformer) and its successor big_vision.

Kernels are stored input first: `[in, out]`, `[in, heads, d]`, `[height, width, in, out]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vit_edge.vit.hints import HALF, ModelHints, image_hints

from .base import Naming

_BLOCK = r"Transformer/encoderblock_(\d+)/"
_ATTENTION = rf"{_BLOCK}MultiHeadDotProductAttention_[01]/"
_MLP = rf"{_BLOCK}MlpBlock_[03]/"


def _convert(name: str, tensor: Tensor) -> Tensor:
    last = name.rpartition("/")[2]
    if last == "kernel":
        if tensor.ndim == 4:  # the patch embedding
            return tensor.permute(3, 2, 0, 1)
        if re.search(r"/(query|key|value)/kernel$", name):
            return tensor.reshape(tensor.shape[0], -1).T
        return tensor.reshape(-1, tensor.shape[-1]).T  # attention's output is [heads, d, out]
    if re.search(r"/(query|key|value)/bias$", name):
        return tensor.reshape(-1)
    return tensor


def _read_hints(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Reads the number of heads, a dimension of the query kernels `[in, heads, d]`."""
    for name, tensor in tensors.items():
        if name.endswith("/query/kernel") and tensor.ndim == 3:
            return ModelHints(n_heads=tensor.shape[1])
    return ModelHints()


def _linear(pattern: str, target: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{pattern}/kernel", rf"{target}.weight"),
        (rf"{pattern}/bias", rf"{target}.bias"),
    )


def _norm(pattern: str, target: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{pattern}/scale", rf"{target}.weight"),
        (rf"{pattern}/bias", rf"{target}.bias"),
    )


JAX_NAMES = Naming(
    name="JAX",
    mark=r"embedding/kernel",
    rules=(
        (r"cls", "cls_token"),
        (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
        *_linear(r"embedding", "patch_embed.proj"),
        *_norm(rf"{_BLOCK}LayerNorm_0", r"blocks.\1.norm1"),
        *_norm(rf"{_BLOCK}LayerNorm_[12]", r"blocks.\1.norm2"),
        *(
            (rf"{_ATTENTION}{name}/{kind}", rf"blocks.\1.attn.qkv.{target}#{part}")
            for part, name in enumerate(("query", "key", "value"))
            for kind, target in (("kernel", "weight"), ("bias", "bias"))
        ),
        *_linear(rf"{_ATTENTION}out", r"blocks.\1.attn.proj"),
        *_linear(rf"{_MLP}Dense_0", r"blocks.\1.mlp.fc1"),
        *_linear(rf"{_MLP}Dense_1", r"blocks.\1.mlp.fc2"),
        *_norm(r"Transformer/encoder_norm", "norm"),
        *_linear(r"pre_logits", "pre_logits.fc"),
        *_linear(r"head", "head"),
    ),
    ignored=(r"opt/.*", r"state/.*", r"step"),
    convert=_convert,
    read_hints=_read_hints,
    # flax.linen.gelu approximates by tanh by default, and the original leaves it at that.
    conventions=lambda tensors: image_hints(HALF, "bilinear", 1.0, "squash").or_else(
        ModelHints(norm_eps=1e-6, mlp="gelu_tanh", antialias=True)
    ),
)
