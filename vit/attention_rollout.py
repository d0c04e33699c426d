"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928): the share of each patch that reaches the
class token, through all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .vision_transformer import MultiHeadSelfAttention, VisionTransformer

_RESIDUAL = 0.5


@torch.inference_mode()
def attention_rollout(model: VisionTransformer, images: Tensor) -> Tensor:
    """Returns each patch's share in the class token after all blocks.

    Args:
        images: float32 `[B, C, H, W]`, normalised.

    Returns:
        float32 `[B, rows, columns]`, one number for each patch; with the class token's own share
        they sum to 1.
    """
    with _recorded_attention(model) as blocks:
        model(images)
    tokens = blocks[0].shape[-1]
    rollout = torch.eye(tokens, device=images.device)
    for weights in blocks:
        mixed = _RESIDUAL * weights.mean(dim=1) + _RESIDUAL * torch.eye(tokens).to(weights)
        rollout = mixed / mixed.sum(dim=-1, keepdim=True) @ rollout  # [B, N, N]
    patches = model.config.num_patches
    return rollout[:, 0, -patches:].reshape(-1, *model.config.grid)  # patches are the last tokens


@contextmanager
def _recorded_attention(model: VisionTransformer) -> Iterator[list[Tensor]]:
    """Collects the attention weights `[B, H, N, N]` of each block that runs meanwhile.

    They are computed anew from the input of the attention: the fused attention of the forward pass
    never has them in memory.
    """
    weights: list[Tensor] = []
    modules = [m for m in model.modules() if isinstance(m, MultiHeadSelfAttention)]

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, MultiHeadSelfAttention)
        weights.append(attention_weights(module, inputs[0]))

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(attention: MultiHeadSelfAttention, x: Tensor) -> Tensor:
    """Softmax(Q K^T / sqrt(D / H)) for tokens `[B, N, D]` -> `[B, H, N, N]`; each row sums to 1."""
    q, k, _ = attention.project(x)
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
