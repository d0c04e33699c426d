"""Token merging in PyTorch, written from the paper (arXiv 2210.09461), for the tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vit_edge.vit.vision_transformer import TransformerBlock, VisionTransformer


def merge(x: Tensor, sizes: Tensor, keys: Tensor, count: int, special: int) -> tuple[Tensor, ...]:
    """One step for `[B, N, D]`, one image and one token at a time.

    Returns:
        The tokens, their sizes `[B, N]`, and where each token went, int64 `[B, N]`.
    """
    metric = keys.mean(dim=1)  # over the heads
    metric = metric / metric.norm(dim=-1, keepdim=True)
    a = [i for i in range(special, x.shape[1]) if i % 2 == 0]
    b = [i for i in range(special, x.shape[1]) if i % 2 == 1]
    results = []
    for image in range(len(x)):
        scores = metric[image, a] @ metric[image, b].T
        best, partner = scores.max(dim=1)
        order = sorted(range(len(a)), key=lambda i: (-best[i].item(), i))
        merged = set(order[:count])
        kept = [i for i in range(len(a)) if i not in merged]
        places = {i: i for i in range(special)}
        places |= {a[i]: special + rank for rank, i in enumerate(kept)}
        places |= {j: special + len(kept) + rank for rank, j in enumerate(b)}
        places |= {a[i]: places[b[partner[i]]] for i in merged}
        total = torch.zeros(x.shape[1] - count)
        sums = torch.zeros(x.shape[1] - count, x.shape[2])
        for old, new in places.items():
            total[new] += sizes[image, old]
            sums[new] += sizes[image, old] * x[image, old]
        where = torch.tensor([places[i] for i in range(x.shape[1])])
        results.append((sums / total[:, None], total, where))
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def attend(block: TransformerBlock, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """What attention that counts tokens by their sizes adds, and its keys."""
    q, k, v = block.attn.project(block.norm1(x))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + sizes.log()[:, None, None]
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    return block.ls1(block.attn.proj(mixed)), k


def forward(model: VisionTransformer, images: Tensor, schedule: Sequence[int]) -> Tensor:
    """Logits of normalised images when block i merges `schedule[i]` tokens."""
    special = model.config.embedding.prefix_tokens
    x = model.norm_pre(model.embed(images))
    sizes = torch.ones(x.shape[:2])
    origin = torch.arange(x.shape[1]).expand(len(x), -1)
    for block, count in zip(model.blocks, schedule, strict=True):
        added, keys = attend(block, x, sizes)
        x = x + added
        if count:
            x, sizes, places = merge(x, sizes, keys, count, special)
            origin = places.gather(1, origin)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    if model.config.readout.pool.startswith("mean"):  # the mean weighted by sizes
        weights = sizes[:, special:, None]
        pooled = (x[:, special:] * weights).sum(1) / weights.sum(1)
    else:
        pooled = model.pool(x)
    return model.head(model.pre_logits(model.fc_norm(pooled)))
