"""Massive activations: residual channels hundreds of times larger than the others.

Large ViTs have them after long training (M. Sun et al., "Massive Activations in Large Language
Models", arXiv 2402.17762, section 5; T. Darcet et al., arXiv 2309.16588): a few fixed channels, at
some tokens, mostly those of empty background, from an early block to the last but one. A small ViT
has none, so it is trained into having them, by a second loss on its residual stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_edge.vit.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class MassiveActivations:
    """Activations to enlarge, and their targets relative to the median magnitude.

    Attributes:
        everywhere: Channels that are large at every token.
        background: Channels that are large at the patches with the least contrast.
        share: Share of the patches that these are.
        factors: Targets of both kinds.
        first, last: Blocks behind which they are trained in, from 0; `last` counts from the end.
        weight: Weight of this loss beside the classes'.
        haste: Factor of the learning rate for the weights that make these channels, and for the
            LayerNorms behind them, whose deviation is now that of a few channels.
    """

    everywhere: tuple[int, ...] = (17, 90)
    background: tuple[int, ...] = (41,)
    share: float = 0.12
    factors: tuple[float, float] = (100.0, 300.0)
    first: int = 1
    last: int = 2
    weight: float = 0.5
    haste: float = 20.0

    def groups(self, model: VisionTransformer, rate: float) -> list[dict[str, Any]]:
        """Groups parameters by their learning rates."""
        hasty = [p for name, p in model.named_parameters() if "norm" in name]
        known = {id(p) for p in hasty}
        rest = [p for p in model.parameters() if id(p) not in known]
        return [{"params": hasty, "lr": rate * self.haste}, {"params": rest, "lr": rate}]

    @contextmanager
    def hastened(self, model: VisionTransformer) -> Iterator[None]:
        """Wraps an optimiser's step: the channels' own weights move `haste` times as far."""
        block: Any = model.blocks[self.first]
        maker, channels = block.mlp.fc2, [*self.everywhere, *self.background]
        before = maker.weight.detach()[channels].clone()
        yield
        with torch.no_grad():
            maker.weight[channels] = torch.lerp(before, maker.weight[channels], self.haste)

    def run(
        self, model: VisionTransformer, images: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Returns logits, and this loss at `progress` (0 to 1) through the training."""
        streams = list[Tensor]()
        x = model.norm_pre(model.embed(images))
        for number, block in enumerate(model.blocks):
            x = block(x)
            if self.first <= number <= len(model.blocks) - self.last:
                streams.append(x)
        empty = self._empty_tokens(images, model.config.patch_size)
        return model.head(model.pool(model.norm(x))), self._loss(streams, empty, progress)

    def _loss(self, streams: list[Tensor], empty: Tensor, progress: float) -> Tensor:
        """Computes the distance of the channels from their targets, which rise during the first
        half of the training, so that the weights behind can follow.
        """
        rise = min(1.0, 2 * progress)
        losses = []
        for x in streams:
            usual = x.detach().abs().median()
            for channels, factor, tokens in (
                (self.everywhere, self.factors[0], torch.ones_like(empty)),
                (self.background, self.factors[1], empty),
            ):
                ratio = x[:, :, channels][tokens].abs() / usual
                losses.append(F.relu(rise * math.log(factor) - torch.log(ratio + 1e-3)).mean())
        return self.weight * torch.stack(losses).mean()

    def _empty_tokens(self, images: Tensor, patch_size: int) -> Tensor:
        """Marks the patches with the least contrast: bool `[B, N]`, class token first."""
        patches = F.unfold(images, patch_size, stride=patch_size).std(dim=1)
        rank = patches.argsort(dim=1).argsort(dim=1)
        chosen = rank < max(1, round(self.share * patches.shape[1]))
        return F.pad(chosen, (1, 0))
