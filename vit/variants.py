"""The table of named configurations, with the preprocessing of their images."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess

from .config import BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from .hints import CLIP, HALF, IMAGENET, ModelHints

_DISTILLED = EmbeddingOptions(distillation_token=True)
_BOTH_TOKENS = ReadoutOptions(pool="class_and_distillation")
_LAYER_SCALE = BlockOptions(layer_scale=True)


@dataclass(frozen=True)
class Variant:
    """A configuration, its preprocessing and its default data set (see `vit.datasets`)."""

    config: ViTConfig
    preprocess: Preprocess
    data: str

    @property
    def hints(self) -> ModelHints:
        """Everything that the shapes of a checkpoint of this variant do not tell."""
        p = self.preprocess
        return ModelHints(
            n_heads=self.config.n_heads,
            norm_eps=self.config.block.norm_eps,
            mlp=self.config.block.mlp,
            mean=p.mean,
            std=p.std,
            interpolation=p.interpolation,
            crop=p.crop,
            crop_mode=p.crop_mode,
        )


def _photographs(
    config: ViTConfig,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    crop: float,
) -> Variant:
    mean, std = normalisation
    height, width = config.image_size
    return Variant(config, Preprocess(height, width, 3, crop, "bicubic", mean, std), "samples")


def _imagenet(patch_size: int, embed_dim: int, depth: int, n_heads: int) -> Variant:
    """A size of the paper's table 1 at 224 pixels, prepared as timm's augreg weights want it."""
    config = ViTConfig(patch_size=patch_size, embed_dim=embed_dim, depth=depth, n_heads=n_heads)
    return _photographs(config, HALF, 0.9)


def _deit(embed_dim: int, n_heads: int) -> Variant:
    """DeiT (arXiv 2012.12877)."""
    config = ViTConfig(embed_dim=embed_dim, n_heads=n_heads)
    return _photographs(config, IMAGENET, 0.9)


def _distilled_deit(embed_dim: int, n_heads: int) -> Variant:
    """DeiT with its distillation token and both heads."""
    config = ViTConfig(
        embed_dim=embed_dim, n_heads=n_heads, embedding=_DISTILLED, readout=_BOTH_TOKENS
    )
    return _photographs(config, IMAGENET, 0.9)


def _dinov2(embed_dim: int, depth: int, n_heads: int, registers: int = 0) -> Variant:
    """DINOv2 (arXiv 2304.07193), without a head; its giant has a SwiGLU."""
    giant = embed_dim == 1536
    config = ViTConfig(
        img_size=518,
        patch_size=14,
        num_classes=0,
        embed_dim=embed_dim,
        depth=depth,
        n_heads=n_heads,
        mlp_ratio=8 / 3 if giant else 4.0,
        embedding=EmbeddingOptions(registers=registers),
        block=BlockOptions(mlp="swiglu", layer_scale=True) if giant else _LAYER_SCALE,
    )
    return _photographs(config, IMAGENET, 1.0)


def _clip(patch_size: int, embed_dim: int, depth: int, n_heads: int, projection: int) -> Variant:
    """The vision tower of CLIP (arXiv 2103.00020), OpenAI's weights."""
    config = ViTConfig(
        patch_size=patch_size,
        num_classes=0,
        embed_dim=embed_dim,
        depth=depth,
        n_heads=n_heads,
        embedding=EmbeddingOptions(norm=True),
        block=BlockOptions(norm_eps=1e-5, mlp="quick_gelu"),
        readout=ReadoutOptions(representation_size=projection, representation="linear"),
    )
    return _photographs(config, CLIP, 1.0)


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
        Preprocess(32, 32, 3, 1.0, "bicubic", *HALF),
        "samples",
    ),
    "vit_tiny_patch16_224": _imagenet(16, 192, 12, 3),
    "vit_small_patch16_224": _imagenet(16, 384, 12, 6),
    "vit_base_patch16_224": _imagenet(16, 768, 12, 12),
    "vit_base_patch32_224": _imagenet(32, 768, 12, 12),
    "vit_large_patch16_224": _imagenet(16, 1024, 24, 16),
    "vit_huge_patch14_224": _imagenet(14, 1280, 32, 16),
    "deit_tiny_patch16_224": _deit(192, 3),
    "deit_small_patch16_224": _deit(384, 6),
    "deit_base_patch16_224": _deit(768, 12),
    "deit_tiny_distilled_patch16_224": _distilled_deit(192, 3),
    "deit_small_distilled_patch16_224": _distilled_deit(384, 6),
    "deit_base_distilled_patch16_224": _distilled_deit(768, 12),
    "vit_small_patch14_dinov2": _dinov2(384, 12, 6),
    "vit_base_patch14_dinov2": _dinov2(768, 12, 12),
    "vit_large_patch14_dinov2": _dinov2(1024, 24, 16),
    "vit_giant_patch14_dinov2": _dinov2(1536, 40, 24),
    "vit_small_patch14_reg4_dinov2": _dinov2(384, 12, 6, registers=4),
    "vit_base_patch14_reg4_dinov2": _dinov2(768, 12, 12, registers=4),
    "vit_large_patch14_reg4_dinov2": _dinov2(1024, 24, 16, registers=4),
    "vit_giant_patch14_reg4_dinov2": _dinov2(1536, 40, 24, registers=4),
    "vit_base_patch32_clip_quickgelu_224": _clip(32, 768, 12, 12, 512),
    "vit_base_patch16_clip_quickgelu_224": _clip(16, 768, 12, 12, 512),
    "vit_large_patch14_clip_quickgelu_224": _clip(14, 1024, 24, 16, 768),
}


def find_variant(name: str) -> Variant:
    """Returns the variant of that name. Raises InputError if there is none."""
    if name not in VARIANTS:
        raise InputError(f"unknown model {name!r}: choose from {', '.join(VARIANTS)}")
    return VARIANTS[name]
