"""Names of Hugging Face transformers: ViT, DeiT, DINOv2 (of releases 4 and 5), and CLIP's vision
tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from vit_edge.vit.hints import CLIP, HALF, IMAGENET, ModelHints, image_hints

from .base import Naming

_BLOCK = r"(?:encoder\.)?layers?\.(\d+)\."
_WB = r"(weight|bias)"


def _projections(pattern: str, names: tuple[str, str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (rf"{_BLOCK}{pattern}{name}\.{_WB}", rf"blocks.\1.attn.qkv.\2#{part}")
        for part, name in enumerate(names)
    )


def _conventions(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Tells DINOv2 by its LayerScale, DeiT by its distillation token; ViT's processor squashes."""
    hints = ModelHints(norm_eps=1e-12, mlp="gelu", antialias=False)
    if "blocks.0.ls1.gamma" in tensors:
        images = image_hints(IMAGENET, "bicubic", 0.875, "center_floor")
        return images.or_else(replace(hints, norm_eps=1e-6))
    if "dist_token" in tensors:
        return image_hints(IMAGENET, "bicubic", 0.875, "squash").or_else(hints)
    return image_hints(HALF, "bilinear", 1.0, "squash").or_else(hints)


HUGGING_FACE_NAMES = Naming(
    name="Hugging Face",
    mark=r"embeddings\.patch_embeddings\.projection\.weight",
    rules=(
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.distillation_token", "dist_token"),
        (r"embeddings\.register_tokens", "reg_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (rf"embeddings\.patch_embeddings\.projection\.{_WB}", r"patch_embed.proj.\1"),
        *_projections(r"attention\.attention\.", ("query", "key", "value")),
        *_projections(r"attention\.", ("q_proj", "k_proj", "v_proj")),
        (rf"{_BLOCK}attention\.(?:output\.dense|o_proj)\.{_WB}", r"blocks.\1.attn.proj.\2"),
        (rf"{_BLOCK}(?:layernorm_before|norm1)\.{_WB}", r"blocks.\1.norm1.\2"),
        (rf"{_BLOCK}(?:layernorm_after|norm2)\.{_WB}", r"blocks.\1.norm2.\2"),
        (rf"{_BLOCK}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
        (
            rf"{_BLOCK}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.{_WB}",
            r"blocks.\1.mlp.fc1.\2",
        ),
        (rf"{_BLOCK}mlp\.gate_proj\.{_WB}", r"blocks.\1.mlp.fc1.\2#0"),
        (rf"{_BLOCK}mlp\.up_proj\.{_WB}", r"blocks.\1.mlp.fc1.\2#1"),
        (
            rf"{_BLOCK}(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.{_WB}",
            r"blocks.\1.mlp.fc2.\2",
        ),
        (rf"layernorm\.{_WB}", r"norm.\1"),
        (rf"(?:cls_)?classifier\.{_WB}", r"head.\1"),
        (rf"distillation_classifier\.{_WB}", r"head_dist.\1"),
    ),
    ignored=(r"embeddings\.(mask_token|position_ids)", r"pooler\..*"),
    conventions=_conventions,
)

CLIP_NAMES = Naming(
    name="Hugging Face CLIP",
    mark=r"embeddings\.class_embedding",
    rules=(
        (r"embeddings\.class_embedding", "cls_token"),
        (r"embeddings\.position_embedding\.weight", "pos_embed"),
        (r"embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
        (rf"pre_layrnorm\.{_WB}", r"norm_pre.\1"),
        *_projections(r"self_attn\.", ("q_proj", "k_proj", "v_proj")),
        (rf"{_BLOCK}self_attn\.out_proj\.{_WB}", r"blocks.\1.attn.proj.\2"),
        (rf"{_BLOCK}layer_norm([12])\.{_WB}", r"blocks.\1.norm\2.\3"),
        (rf"{_BLOCK}mlp\.fc([12])\.{_WB}", r"blocks.\1.mlp.fc\2.\3"),
        (rf"post_layernorm\.{_WB}", r"norm.\1"),
        (r"visual_projection\.weight", "pre_logits.fc.weight"),
        (rf"classifier\.{_WB}", r"head.\1"),
    ),
    ignored=(r"embeddings\.position_ids",),
    conventions=lambda tensors: image_hints(CLIP, "bicubic", 1.0, "center_floor").or_else(
        ModelHints(norm_eps=1e-5, mlp="quick_gelu", antialias=False)
    ),
)
