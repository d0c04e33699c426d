"""Small transformers of a user's own, as the module door takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, CLASSES, SIDE = 32, 2, 5, 32
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Block(nn.Module):
    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        self.rank = rank
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        heads = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, HEADS, width // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if self.rank == 3:  # torch's dynamo exporter takes four dimensions only
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        attended = attended.reshape(batch, HEADS, tokens, -1).transpose(1, 2)
        x = x + self.proj(attended.reshape(batch, tokens, width))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Tiny(nn.Module):
    """A ViT of one block; `answer` makes what it returns of tokens and logits."""

    def __init__(
        self, answer: Callable[[Tensor, Tensor], Any] = lambda tokens, logits: logits, rank: int = 4
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.answer = answer
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.positions = nn.Parameter(0.3 * torch.randn(1, (SIDE // 8) ** 2, WIDTH))
        self.block, self.norm = Block(rank), nn.LayerNorm(WIDTH)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Any:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        tokens = self.norm(self.block(tokens))
        return self.answer(tokens, self.head(self.drop(tokens.mean(1))))


def to_map(tokens: Tensor) -> Tensor:
    """A map `[B, SIDE, SIDE]` of the tokens, as a decoder gives it."""
    grid = tokens[..., 0].reshape(-1, 1, SIDE // 8, SIDE // 8)
    return nn.functional.interpolate(grid, size=(SIDE, SIDE), mode="bilinear")[:, 0]
