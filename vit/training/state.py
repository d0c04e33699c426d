"""The state of a training between two epochs, kept in a file from which it resumes exactly.

No random state is in it: every random choice follows from the seed, the epoch and the image (see
`augment`), and the learning rate from the step.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vit_edge.runtime.errors import InputError, first_line

from ..vision_transformer import VisionTransformer
from .files import replace_file
from .recipe import Recipe, ema_decay_at, parameter_groups

_KEYS = ("settings", "model", "average", "optimiser", "step", "history")

Settings = dict[str, str]
"""Settings of a training by the names of its options."""


@dataclass(frozen=True)
class EpochResult:
    """Mean training loss (on changed images), and loss and top-1 share of the averaged weights on
    the validation images.
    """

    training_loss: float
    validation_loss: float
    accuracy: float


@dataclass
class TrainingState:
    """State of a training, changed in place: models are too large to be copied at every step.

    Attributes:
        average: The exponential moving average of the weights, the training's result.
        step: Batches done.
        history: One result for each epoch done.
    """

    model: VisionTransformer
    average: VisionTransformer
    optimiser: torch.optim.Optimizer
    step: int = 0
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def start(cls, model: VisionTransformer, recipe: Recipe) -> TrainingState:
        groups = parameter_groups(model, recipe.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        average = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(model, average, optimiser)

    @torch.no_grad()
    def update_average(self, recipe: Recipe) -> None:
        decay = ema_decay_at(self.step, recipe)
        for average, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(new, 1 - decay)

    def save(self, path: Path, settings: Settings) -> None:
        """Replaces the file whole. Raises InputError if it cannot be written."""
        content = {
            "settings": json.dumps(settings),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "history": [asdict(result) for result in self.history],
        }
        with replace_file(path) as stream:
            torch.save(content, stream)

    def resume(self, path: Path, settings: Settings) -> None:
        """Restores the state from a file that `save` wrote.

        Raises:
            InputError: if the file is damaged, or of a training with other settings.
        """
        content = _read(path, self.model)
        _check_settings(json.loads(content["settings"]), settings, path)
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step = content["step"]
        self.history = [EpochResult(**result) for result in content["history"]]


def _read(path: Path, model: VisionTransformer) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(
            path, map_location=model.pos_embed.device, weights_only=True
        )
        missing = [key for key in _KEYS if key not in content]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise InputError(
            f"{path} is no state of an unfinished training ({first_line(error)}): remove it to "
            "start afresh"
        ) from None
    return content


def _check_settings(before: Settings, now: Settings, path: Path) -> None:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        changes = "; ".join(
            f"{name} was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
            for name in names
        )
        raise InputError(
            f"{path} is an unfinished training with other settings ({changes}): finish it with "
            "its own, remove the file to start afresh, or give another --out"
        )
