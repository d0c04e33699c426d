"""Low-rank adapters (LoRA, arXiv 2106.09685) beside the weights that they change."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

from torch import Tensor

from vit_edge.runtime.errors import InputError

from .checkpoint import RawCheckpoint
from .choice import listed
from .options import find_option

_ADAPTER = re.compile(
    r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up)(?:\.(?P<name>\w+))?(?:\.weight)?"
)
"""PEFT's (with a name), loralib's, and kohya's and diffusers' names."""
_OTHERS = re.compile(r".*\.(lora_magnitude_vector|lora_embedding_[AB]|hada_w\d|oft_\w+)(\..*)?")
_DOWN = ("lora_A", "lora_down")
_WHOLE = re.compile(r"\.modules_to_save\.\w+")
"""PEFT's copy of a module that is trained whole, as the classifier."""

_REMEDY = "merge them where they were trained (PEFT: model.merge_and_unload()) and save again"


def merge_adapters(raw: RawCheckpoint) -> list[str]:
    """Adds adapters to the weights that they change, and takes their wrappers out of the names of
    `raw.tensors`; returns what was done, in words.

    Raises:
        InputError: if the scale of the adapters is not in the file, or they are of another kind.
    """
    tensors = raw.tensors
    adapters = _find(tensors)
    if other := next((name for name in tensors if _OTHERS.fullmatch(name)), None):
        raise InputError(f"{raw.source} has adapters that are not merged, as {other}: {_REMEDY}")
    if not adapters:
        return []
    layers = sorted(adapters)
    scales = set[float]()
    for layer in layers:
        down, up = adapters[layer]
        name = _weight_of(layer, tensors)
        if name is None:
            raise InputError(
                f"{raw.source} holds LoRA adapters without the weights that they change (none for "
                f"{layer}): {_REMEDY}"
            )
        weight = tensors[name]
        if up.ndim != 2 or down.ndim != 2 or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise InputError(
                f"{raw.source}: the LoRA adapter of {layer} is {list(up.shape)} x "
                f"{list(down.shape)}, its weight {list(weight.shape)}: {_REMEDY}"
            )
        scale = _scale(raw, layer, down.shape[0], layers)
        tensors[name] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
        scales.add(scale)
    _unwrap(tensors)
    scaled = ", ".join(f"{scale:g}" for scale in sorted(scales))
    return [f"LoRA adapters of {len(layers)} layers are merged, scaled by {scaled}"]


def _find(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Takes the adapters out of `tensors`: down and up by the layer's name."""
    parts = defaultdict[str, dict[bool, Tensor]](dict)
    for old in list(tensors):
        match = _ADAPTER.fullmatch(old)
        if match is None or tensors[old].ndim != 2:
            continue
        half = parts[match["layer"]]
        is_down = match["part"] in _DOWN
        if is_down in half:
            raise InputError(
                f"{match['layer']} has several LoRA adapters, as {match['name']}: {_REMEDY}"
            )
        half[is_down] = tensors.pop(old)
    lone = [layer for layer, half in parts.items() if len(half) != 2]
    if lone:
        raise InputError(f"half of a LoRA adapter is missing ({listed(lone)}): {_REMEDY}")
    return {layer: (half[True], half[False]) for layer, half in parts.items()}


def _weight_of(layer: str, tensors: dict[str, Tensor]) -> str | None:
    names = (f"{layer}.base_layer.weight", f"{layer}.weight", f"{layer}.linear.weight")
    return next((name for name in names if name in tensors), None)


def _scale(raw: RawCheckpoint, layer: str, rank: int, layers: list[str]) -> float:
    """Returns alpha / rank, or alpha / sqrt(rank) of rsLoRA."""
    options: Any = raw.options
    own = raw.tensors.pop(f"{layer}.alpha", None)
    alpha = find_option(options, "lora_alpha", int, float) if own is None else float(own)
    if alpha is None:
        raise InputError(
            f"{raw.source} has LoRA adapters that are not merged ({len(layers)} layers, as "
            f"{layer}), and their lora_alpha is not in it: {_REMEDY}"
        )
    return alpha / (math.sqrt(rank) if find_option(options, "use_rslora", bool) else rank)


def _unwrap(tensors: dict[str, Tensor]) -> None:
    """Takes PEFT's wrappers out of the names."""
    for old in list(tensors):
        if ".original_module." in old:
            del tensors[old]
            continue
        new = _WHOLE.sub("", old.replace(".base_layer.", "."))
        if new != old:
            tensors[new] = tensors.pop(old)
