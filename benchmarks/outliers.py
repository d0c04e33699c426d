"""Injection of outliers into a ViT without changing its function.

Channels are multiplied at their producers and divided at their consumers, by powers of two: fp32
logits stay the same to the last bits, and ranges become those of large ViTs or worse.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from vit_edge.vit.vision_transformer import VisionTransformer

LARGEST = 7
"""Exponent of the largest factor: 2^7 = 128."""
_SHARE = 0.03
_USUAL = torch.tensor([0.6, 0.3, 0.1])


@torch.no_grad()
def with_injected_outliers(model: VisionTransformer, seed: int) -> VisionTransformer:
    """Copies the model, with outliers behind every LayerNorm, in values, and in queries against
    keys.
    """
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    block: Any
    for block in changed.blocks:
        width = block.norm1.weight.numel()
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            factor = _factors(width, generator)
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
            linear.weight.div_(factor)
        queries, values = _factors(width, generator), _factors(width, generator)
        outputs = torch.cat([queries, 1 / queries, values])
        block.attn.qkv.weight.mul_(outputs[:, None])
        block.attn.qkv.bias.mul_(outputs)
        block.attn.proj.weight.div_(values)
    return changed


def _factors(width: int, generator: torch.Generator) -> Tensor:
    """Draws a power of two for each channel: small for most, 16 to 128 for a few, 128 for one."""
    exponents = torch.multinomial(_USUAL, width, replacement=True, generator=generator)
    chosen = torch.randperm(width, generator=generator)[: max(2, round(_SHARE * width))]
    exponents[chosen] = torch.randint(4, LARGEST + 1, chosen.shape, generator=generator)
    exponents[chosen[0]] = LARGEST
    return torch.exp2(exponents.float())
