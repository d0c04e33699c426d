"""Names of timm, DeiT's and DINOv2's own releases, and this project: nearly the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from vit_edge.vit.hints import CLIP, IMAGENET, ModelHints, image_hints

from .base import Naming

_PLAIN = ModelHints(norm_eps=1e-6, mlp="gelu", antialias=True)


def _conventions(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Tells DeiT, DINOv2 and CLIP by tensors that a plain ViT has not; a plain one's preprocessing
    is left to the variant of its size.
    """
    if "dist_token" in tensors:
        return image_hints(IMAGENET, "bicubic", 0.9).or_else(_PLAIN)
    if "norm_pre.weight" in tensors:
        return image_hints(CLIP, "bicubic", 1.0).or_else(replace(_PLAIN, norm_eps=1e-5))
    if "blocks.0.ls1.gamma" in tensors and tensors["patch_embed.proj.weight"].shape[-1] == 14:
        return image_hints(IMAGENET, "bicubic", 1.0).or_else(_PLAIN)
    return _PLAIN


TIMM_NAMES = Naming(
    name="timm",
    mark=r"patch_embed\.proj\.weight",
    rules=(
        (r"register_tokens", "reg_token"),
        (r"(blocks\.\d+)\.mlp\.w12\.(weight|bias)", r"\1.mlp.fc1.\2"),
        (r"(blocks\.\d+)\.mlp\.w3\.(weight|bias)", r"\1.mlp.fc2.\2"),
    ),
    ignored=(r"mask_token", r"(projection|dino|ibot)_head\..*"),
    conventions=_conventions,
)
