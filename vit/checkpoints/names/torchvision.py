"""Names of torchvision's `vit_b_16` and its kin."""

from __future__ import annotations

from vit_edge.vit.hints import IMAGENET, ModelHints, image_hints

from .base import Naming

_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_WB = r"(weight|bias)"

TORCHVISION_NAMES = Naming(
    name="torchvision",
    mark=r"conv_proj\.weight",
    rules=(
        (r"class_token", "cls_token"),
        (r"encoder\.pos_embedding", "pos_embed"),
        (rf"conv_proj\.{_WB}", r"patch_embed.proj.\1"),
        (rf"{_BLOCK}ln_([12])\.{_WB}", r"blocks.\1.norm\2.\3"),
        (rf"{_BLOCK}self_attention\.in_proj_{_WB}", r"blocks.\1.attn.qkv.\2"),
        (rf"{_BLOCK}self_attention\.out_proj\.{_WB}", r"blocks.\1.attn.proj.\2"),
        (rf"{_BLOCK}mlp\.(?:0|linear_1)\.{_WB}", r"blocks.\1.mlp.fc1.\2"),
        (rf"{_BLOCK}mlp\.(?:3|linear_2)\.{_WB}", r"blocks.\1.mlp.fc2.\2"),
        (rf"encoder\.ln\.{_WB}", r"norm.\1"),
        (rf"heads\.pre_logits\.{_WB}", r"pre_logits.fc.\1"),
        (rf"heads\.head\.{_WB}", r"head.\1"),
    ),
    conventions=lambda tensors: image_hints(IMAGENET, "bilinear", 0.875).or_else(
        ModelHints(norm_eps=1e-6, mlp="gelu", antialias=False)
    ),
)
