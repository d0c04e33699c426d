"""How a model's pictures are prepared, from all that is known of it."""

from __future__ import annotations

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import MODES, Preprocess
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.facts import HALF, Facts

_PICTURES = Facts(interpolation="bicubic", crop=1.0, crop_mode="center")
"""Where nobody says how they are scaled."""


def find_preprocess(
    given: Facts, found: Facts, config: ViTConfig
) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing, and what of it had to be assumed here.

    Args:
        given: What the user said.
        found: What the checkpoint, its source's conventions or its variant say.
        config: The model; its size and channels are what pictures become.

    Raises:
        InputError: naming the options that are missing or do not fit.
    """
    facts = given.or_else(found)
    channels, assumed = config.in_channels, list[str]()
    if channels not in MODES:
        raise InputError(f"the model takes {channels} channels: pictures have 1 or 3")
    for name in ("mean", "std"):
        value = getattr(facts, name)
        grey = channels == 1 and getattr(given, name) is None
        if grey and value is not None and len(value) == 3:
            facts = Facts(**{**vars(facts), name: HALF[0][:1]})
            assumed.append(f"{name} 0.5 (one channel)")
    missing = [f"--{name}" for name in ("mean", "std") if getattr(facts, name) is None]
    if missing:
        raise InputError(
            "how the model's pictures are normalised is not in the checkpoint, and no known "
            f"variant has its size: give {' and '.join(missing)} (on the 0-1 scale)"
        )
    for name, value in vars(_PICTURES).items():
        if value is not None and getattr(facts, name) is None:
            assumed.append(f"{name} {value} (nobody says)")
    facts = facts.or_else(_PICTURES)
    try:
        preprocess = Preprocess(
            *config.image_size,
            channels=channels,
            crop=1.0 if facts.crop is None else facts.crop,
            interpolation=str(facts.interpolation),
            mean=facts.mean or (),
            std=facts.std or (),
            crop_mode=str(facts.crop_mode),
        )
    except ValueError as error:
        raise InputError(f"--mean, --std, --crop, --interpolation: {error}") from None
    return preprocess, tuple(assumed)
