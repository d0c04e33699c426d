"""Recipes for training on a folder of images: the numbers, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_edge.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay, strongly regularised for small data (DeiT, arXiv
    2012.12877; Steiner et al., arXiv 2106.10270).

    Attributes:
        warm_up: Share of all steps in which the learning rate rises from zero.
        mixup: Both parameters of the Beta distribution of the shares in which two images of a batch
            are mixed; 0 mixes none.
        max_norm: Gradients longer than this are shortened to it.
        ema_decay: Decay of the averaged weights, which are the result.

    Raises:
        InputError: if epochs, batch or learning rate are not positive.
    """

    epochs: int
    learning_rate: float
    batch: int = 64
    weight_decay: float = 0.05
    warm_up: float = 0.1
    label_smoothing: float = 0.1
    mixup: float = 0.2
    max_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        for option, value in (("--epochs", self.epochs), ("--batch", self.batch)):
            if value < 1:
                raise InputError(f"{option} is {value}, it must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate is {self.learning_rate}, it must be positive")


# Weights that know something already are moved gently, and need no mixed images to generalise.
RECIPES = {
    "from scratch": Recipe(epochs=100, learning_rate=1e-3),
    "fine-tune": Recipe(epochs=20, learning_rate=1e-4, mixup=0.0),
}


def learning_rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Returns the learning rate of a step, counted from 0, out of `steps` in all."""
    rising = max(1, round(steps * recipe.warm_up))
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay_at(step: int, recipe: Recipe) -> float:
    """Returns the decay of the averaged weights: less at first, else short runs would keep their
    random start.
    """
    return min(recipe.ema_decay, (1 + step) / (10 + step))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Applies weight decay to matrices and kernels, but not to biases, norms, tokens and positions,
    which have no scale to be held down.
    """
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_exempt = parameter.ndim < 2 or name.endswith(("_token", "pos_embed"))
        (exempt if is_exempt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
