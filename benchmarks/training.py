"""Trains the benchmark's own models on rendered characters, and keeps them for later runs.

Expected on 2 cores: `characters` in about 12 minutes, `outliers` in about 6 more; `patches` in
about 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.training.recipe import parameter_groups
from vit_edge.vit.vision_transformer import VisionTransformer

from .characters import CLASSES, SIDE
from .massive import MassiveActivations

CONFIG = ViTConfig(
    img_size=SIDE,
    patch_size=6,
    in_channels=1,
    num_classes=len(CLASSES),
    embed_dim=128,
    depth=6,
    n_heads=4,
)
PREPROCESS = Preprocess(SIDE, SIDE, 1, 1.0, "box", (0.5,), (0.5,))


_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Recipe:
    """AdamW with a one-cycle learning rate; `massive` is trained in besides the classes."""

    steps: int
    learning_rate: float
    batch: int = 64
    warm_up: float = 0.1
    massive: MassiveActivations | None = None


FROM_SCRATCH = Recipe(steps=5_000, learning_rate=2e-3)
OF_MANY_TOKENS = Recipe(steps=2_000, learning_rate=2e-3)
INTO_OUTLIERS = Recipe(steps=1_500, learning_rate=5e-4, massive=MassiveActivations())


def characters_vit(data: ImageSet, cache: Path) -> VisionTransformer:
    """Trains the ViT for characters from random weights."""
    torch.manual_seed(0)
    return _trained(VisionTransformer.from_config(CONFIG), data, FROM_SCRATCH, cache)


def patches_vit(data: ImageSet, cache: Path) -> VisionTransformer:
    """Trains one of 36 patches in place of 16, for what depends on the number of tokens."""
    torch.manual_seed(0)
    config = replace(CONFIG, patch_size=4)
    return _trained(VisionTransformer.from_config(config), data, OF_MANY_TOKENS, cache)


def outliers_vit(data: ImageSet, cache: Path) -> VisionTransformer:
    """Trains the same model further, into massive activations on the residual stream."""
    return _trained(characters_vit(data, cache), data, INTO_OUTLIERS, cache)


def _trained(
    model: VisionTransformer, data: ImageSet, recipe: Recipe, cache: Path
) -> VisionTransformer:
    """Trains `model` by the recipe, or takes the cache's result of this start, data and recipe."""
    start = hashlib.sha256(f"{recipe} {data.origin}".encode())
    for tensor in model.state_dict().values():
        start.update(tensor.numpy().tobytes())
    file = cache / f"vit-{start.hexdigest()[:12]}.safetensors"
    if not file.exists():
        train(model, data, recipe, lambda text: print(text, flush=True))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    model.load_state_dict(load_file(file))
    return model.eval()


def train(
    model: VisionTransformer, data: ImageSet, recipe: Recipe, say: Callable[[str], None]
) -> None:
    """Trains in place; reports progress to `say`."""
    assert data.labels is not None
    images, labels = next(data.batches(len(data))), torch.from_numpy(data.labels)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    rate, massive = recipe.learning_rate, recipe.massive
    groups = massive.groups(model, rate) if massive else parameter_groups(model, _WEIGHT_DECAY)
    optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=recipe.steps, pct_start=recipe.warm_up
    )
    model.train()
    average = 0.0
    for step, chosen in enumerate(_batches(len(data), recipe)):
        loss = _loss(model, pixels[chosen], labels[chosen], step / recipe.steps, recipe)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with massive.hastened(model) if massive else nullcontext():
            optimiser.step()
        schedule.step()
        average = 0.98 * average + 0.02 * loss.item()
        if step % 100 == 99:
            say(f"step {step + 1} of {recipe.steps}: loss {average:.3f}")
    model.eval()


def _batches(count: int, recipe: Recipe) -> list[Tensor]:
    """Draws the images of each step: every image once before any comes again."""
    generator = torch.Generator().manual_seed(0)
    order = list[Tensor]()
    while len(order) < recipe.steps:
        shuffled = torch.randperm(count, generator=generator)
        order += shuffled.split(recipe.batch)[: count // recipe.batch]
    return order[: recipe.steps]


def _loss(
    model: VisionTransformer, pixels: Tensor, labels: Tensor, progress: float, recipe: Recipe
) -> Tensor:
    images = pixels.float() / 127.5 - 1
    if recipe.massive is None:
        return F.cross_entropy(model(images), labels)
    logits, shortfall = recipe.massive.run(model, images, progress)
    return F.cross_entropy(logits, labels) + shortfall
