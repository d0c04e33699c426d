"""What is known of a model beside its tensors, and who says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .config import ViTConfig


@dataclass(frozen=True)
class Facts:
    """What tensors do not tell; None: not known here.

    Attributes:
        img_size: Height and width that the model shall take.
        native_size: Height and width that its position embeddings are for.
        norm_eps: Epsilon of the LayerNorms.
        mlp: See `vit.config.BlockOptions`.
        pool: See `vit.config.ReadoutOptions`.
        antialias: Whether the source resamples position embeddings with antialiasing.
        mean, std, interpolation, crop, crop_mode: See `runtime.preprocess.Preprocess`.
        labels: Names of the classes.
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

    def or_else(self, other: Facts) -> Facts:
        """These facts, and from `other` what is not known here."""
        known = {k: v for k, v in vars(self).items() if v is not None}
        return Facts(**{**vars(other), **known})

    def applied_to(self, config: ViTConfig) -> ViTConfig:
        """`config` with what is known of it. Raises ValueError if that does not fit."""
        block, sizes = config.block, config
        if self.norm_eps is not None:
            block = dataclasses.replace(block, norm_eps=self.norm_eps)
        if self.mlp is not None:
            block = dataclasses.replace(block, mlp=self.mlp)
        if self.img_size is not None:
            sizes = dataclasses.replace(sizes, img_size=self.img_size)
        if self.n_heads is not None:
            sizes = dataclasses.replace(sizes, n_heads=self.n_heads)
        return dataclasses.replace(sizes, block=block)


ASSUMABLE = (
    "n_heads",
    "norm_eps",
    "mlp",
    "mean",
    "std",
    "interpolation",
    "crop",
    "crop_mode",
)
"""What a user should be told of when it was not said by them or their files."""


@dataclass(frozen=True)
class Witness:
    """Who says the facts, in words; whether the user or their files do, or it is an assumption."""

    name: str
    facts: Facts
    assumption: bool


def resolve(witnesses: list[Witness]) -> tuple[Facts, tuple[str, ...]]:
    """Each fact from the first witness that knows it, and what was assumed, in words."""
    values: dict[str, object] = {}
    assumed = []
    for field in dataclasses.fields(Facts):
        for witness in witnesses:
            value = getattr(witness.facts, field.name)
            if value is None:
                continue
            values[field.name] = value
            if witness.assumption and field.name in ASSUMABLE:
                assumed.append(f"{field.name} {words(value)} ({witness.name})")
            break
    return Facts(**values), tuple(assumed)  # type: ignore[arg-type]


def words(value: object) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation on the 0-1 scale."""


def pictures(
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    interpolation: str,
    crop: float,
    crop_mode: str = "center",
) -> Facts:
    """How pictures are prepared."""
    mean, std = normalisation
    return Facts(mean=mean, std=std, interpolation=interpolation, crop=crop, crop_mode=crop_mode)
