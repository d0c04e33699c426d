"""Hints: facts about a model that its tensors do not tell, each with its source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .config import ViTConfig
from .labels import overruled_labels


@dataclass(frozen=True)
class ModelHints:
    """Facts that tensors do not tell; None where this source does not know.

    Attributes:
        img_size: Height and width of the input that is asked for.
        native_size: Height and width that the position embeddings are for.
        norm_eps: Epsilon of the LayerNorms.
        mlp: See `vit.config.BlockOptions`.
        pool: See `vit.config.ReadoutOptions`.
        antialias: True if the source resamples position embeddings with antialiasing.
        mean, std, interpolation, crop, crop_mode: See `runtime.preprocess.Preprocess`.
        labels: Names of the classes.
        folders: Pairs of the name of a folder of images and the index of its class.
        checkpoint_key: Of several weights in a file, those to take: see `read_checkpoint`.
    """

    img_size: tuple[int, int] | None = None
    native_size: tuple[int, int] | None = None
    n_heads: int | None = None
    norm_eps: float | None = None
    mlp: str | None = None
    pool: str | None = None
    antialias: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop: float | None = None
    crop_mode: str | None = None
    labels: tuple[str, ...] | None = None
    folders: tuple[tuple[str, int], ...] | None = None
    checkpoint_key: str | None = None

    def or_else(self, other: ModelHints) -> ModelHints:
        """Returns these hints, completed by those of `other`."""
        return ModelHints(**{**vars(other), **_known(**vars(self))})

    def applied_to(self, config: ViTConfig) -> ViTConfig:
        """Returns `config` with these hints in it. Raises ValueError if they do not fit."""
        block = dataclasses.replace(config.block, **_known(norm_eps=self.norm_eps, mlp=self.mlp))
        sizes = _known(img_size=self.img_size, n_heads=self.n_heads)
        return dataclasses.replace(config, block=block, **sizes)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


ASSUMABLE = (
    "n_heads",
    "norm_eps",
    "mlp",
    "pool",
    "mean",
    "std",
    "interpolation",
    "crop",
    "crop_mode",
)
"""Hints whose origin is reported to the user."""


@dataclass(frozen=True)
class HintSource:
    """Origin of hints, in words; an assumption unless the user or the files say so."""

    name: str
    hints: ModelHints
    assumption: bool


@dataclass(frozen=True)
class Resolved:
    """Hints, and in words those that are assumptions and those that are not, with their origin."""

    hints: ModelHints
    assumed: tuple[str, ...]
    stated: tuple[str, ...]


def resolve(sources: list[HintSource]) -> Resolved:
    """Takes each hint from the first source that knows it, and says which statements of others it
    overrules.
    """
    values: dict[str, object] = {}
    assumed, stated = list[str](), list[str]()
    for name in (field.name for field in dataclasses.fields(ModelHints)):
        known = [source for source in sources if getattr(source.hints, name) is not None]
        if not known:
            continue
        source, *others = known
        value = values[name] = getattr(source.hints, name)
        overruled = [o for o in others if not o.assumption and getattr(o.hints, name) != value]
        if name in ASSUMABLE:
            words = f"{name} {format_value(value)} ({source.name}"
            if overruled:
                other = format_value(getattr(overruled[0].hints, name))
                words += f"; {overruled[0].name}: {other}"
            (assumed if source.assumption else stated).append(f"{words})")
        elif name == "labels" and overruled:
            stated.append(overruled_labels(value, overruled[0].hints.labels or (), "the file"))
    return Resolved(ModelHints(**values), tuple(assumed), tuple(stated))  # type: ignore[arg-type]


def format_value(value: object) -> str:
    """Formats a hint for messages: several numbers with commas between them."""
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation on the 0-1 scale."""


def image_hints(
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    interpolation: str,
    crop: float,
    crop_mode: str = "center",
) -> ModelHints:
    """Returns hints about the preprocessing of images."""
    mean, std = normalisation
    return ModelHints(
        mean=mean, std=std, interpolation=interpolation, crop=crop, crop_mode=crop_mode
    )
