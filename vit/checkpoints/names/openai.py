"""Names of OpenAI's CLIP and of open_clip's own image tower, in front of which "visual." stands."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vit_edge.vit.hints import CLIP, ModelHints, image_hints

from .base import Naming

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_WB = r"(weight|bias)"
_OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Numbers beside the weights of OpenAI's own files."""
_PIXELS = image_hints(CLIP, "bicubic", 1.0, "center_floor")


def _convert(name: str, tensor: Tensor) -> Tensor:
    """Turns the projection, which is stored `[width, features]`."""
    return tensor.T if name.rpartition(".")[2] == "proj" else tensor


def _read_hints(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Reads the activation of OpenAI's files, which open_clip's do not share."""
    names = {name.rpartition(".")[2] for name in tensors}
    return ModelHints(mlp="quick_gelu") if names & {*_OPENAI} else ModelHints()


def _conventions(tensors: Mapping[str, Tensor]) -> ModelHints:
    """Tells OpenAI's weights, which are in fp16, from open_clip's in fp32, whose GELU is exact."""
    half = tensors["patch_embed.proj.weight"].dtype == torch.float16
    rest = ModelHints(norm_eps=1e-5, mlp="quick_gelu" if half else "gelu", antialias=True)
    return _PIXELS.or_else(rest)


OPENAI_NAMES = Naming(
    name="OpenAI CLIP",
    mark=r"(?<!embeddings\.)class_embedding",
    rules=(
        (r"class_embedding", "cls_token"),
        (r"positional_embedding", "pos_embed"),
        (r"conv1\.weight", "patch_embed.proj.weight"),
        (rf"ln_pre\.{_WB}", r"norm_pre.\1"),
        (rf"{_BLOCK}attn\.in_proj_{_WB}", r"blocks.\1.attn.qkv.\2"),
        (rf"{_BLOCK}attn\.out_proj\.{_WB}", r"blocks.\1.attn.proj.\2"),
        (rf"{_BLOCK}ln_([12])\.{_WB}", r"blocks.\1.norm\2.\3"),
        (rf"{_BLOCK}ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
        (rf"{_BLOCK}mlp\.c_fc\.{_WB}", r"blocks.\1.mlp.fc1.\2"),
        (rf"{_BLOCK}mlp\.c_proj\.{_WB}", r"blocks.\1.mlp.fc2.\2"),
        (rf"ln_post\.{_WB}", r"norm.\1"),
        (r"proj", "pre_logits.fc.weight"),
    ),
    convert=_convert,
    read_hints=_read_hints,
    conventions=_conventions,
)
