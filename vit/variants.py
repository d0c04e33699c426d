"""The table of named configurations, with how their pictures are prepared."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InputError
from runtime.preprocess import Preprocess

from .vision_transformer import ViTConfig


@dataclass(frozen=True)
class Variant:
    """A configuration, its preprocessing and the data that is used where none is named (see
    `vit.datasets`).
    """

    config: ViTConfig
    preprocess: Preprocess
    data: str


def _imagenet(patch_size: int, embed_dim: int, depth: int, n_heads: int) -> Variant:
    """A size of the paper's table 1 at 224 pixels, prepared as timm's augreg weights want it."""
    config = ViTConfig(patch_size=patch_size, embed_dim=embed_dim, depth=depth, n_heads=n_heads)
    half = (0.5, 0.5, 0.5)
    return Variant(config, Preprocess(224, 224, 3, 0.9, "bicubic", half, half), "samples")


VARIANTS: dict[str, Variant] = {
    "vit_digits": Variant(
        ViTConfig(
            img_size=8,
            patch_size=4,
            in_channels=1,
            num_classes=10,
            embed_dim=64,
            depth=4,
            n_heads=4,
        ),
        Preprocess(8, 8, 1, 1.0, "box", (0.5,), (0.5,)),
        "digits",
    ),
    # The size for tests: all that the large ones have, in milliseconds.
    "vit_test_patch8_32": Variant(
        ViTConfig(img_size=32, patch_size=8, num_classes=10, embed_dim=64, depth=2, n_heads=2),
        Preprocess(32, 32, 3, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "samples",
    ),
    "vit_tiny_patch16_224": _imagenet(16, 192, 12, 3),
    "vit_small_patch16_224": _imagenet(16, 384, 12, 6),
    "vit_base_patch16_224": _imagenet(16, 768, 12, 12),
    "vit_base_patch32_224": _imagenet(32, 768, 12, 12),
    "vit_large_patch16_224": _imagenet(16, 1024, 24, 16),
    "vit_huge_patch14_224": _imagenet(14, 1280, 32, 16),
}


def find_variant(name: str) -> Variant:
    """The variant of that name. Raises InputError if there is none."""
    if name not in VARIANTS:
        raise InputError(f"unknown model {name!r}: choose from {', '.join(VARIANTS)}")
    return VARIANTS[name]
