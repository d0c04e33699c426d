"""Translation of a source's names and layout to the model's."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from vit_edge.runtime.errors import InputError

from .checkpoint import Checkpoint, RawCheckpoint
from .names import NAMINGS, Naming
from .names.base import PART

OWN = "vit-edge"
"""Naming of this project's own files: timm's, with the rest in the header."""
_SHOWN = 10


def to_canonical(raw: RawCheckpoint) -> Checkpoint:
    """Renames, joins and reshapes; `raw.tensors` is emptied on the way.

    Raises:
        InputError: if the names are no known source's, two tensors claim one name, or a tensor is
            not of dense floating-point numbers.
    """
    naming = find_naming(raw)
    hints = raw.hints.or_else(naming.read_hints(raw.tensors))
    tensors, parts = dict[str, Tensor](), defaultdict[str, dict[str, Tensor]](dict)
    left_out = []
    for old in list(raw.tensors):
        tensor, name = raw.tensors.pop(old), naming.translate(old)
        if name is None:
            left_out.append(old)
            continue
        _require_numbers(old, tensor, raw.source)
        base, mark, part = name.partition(PART)
        target = parts[base] if mark else tensors
        key = part if mark else name
        if key in target:
            raise InputError(f"{raw.source}: {old} is there twice, under two prefixes")
        target[key] = naming.convert(old, tensor)
    for base in list(parts):
        tensors[base] = _join(base, parts.pop(base), raw.source)
    if raw.config is None:
        _finish(tensors, raw.source)
    return Checkpoint(
        raw.source,
        OWN if raw.config is not None else naming.name,
        tensors,
        raw.config,
        hints,
        naming.conventions(tensors),
        tuple(left_out),
    )


def find_naming(raw: RawCheckpoint) -> Naming:
    """Returns the naming that the checkpoint uses. Raises InputError if it is unknown."""
    names = list(raw.tensors)
    for naming in NAMINGS.values():
        if naming.recognises(names):
            return naming
    raise InputError(
        f"{raw.source} does not look like a ViT of {', '.join(NAMINGS)}: no patch embedding is "
        f"among its {len(names)} tensors ({listed(sorted(names))})"
    )


def listed(items: list[str]) -> str:
    """Joins the first ten, and counts the rest."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _require_numbers(name: str, tensor: Tensor, source: str) -> None:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        kind = "without data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise InputError(
            f"{source}: {name} is {kind}: give a checkpoint of dense floating-point weights"
        )


def _join(base: str, parts: dict[str, Tensor], source: str) -> Tensor:
    """Concatenates parts 0, 1, ...; a bias that Q or V has and K has not is zero there."""
    count = 3 if ".qkv." in base else 2
    if base.endswith("bias"):
        zeros = torch.zeros_like(next(iter(parts.values())))
        parts = {str(k): parts.get(str(k), zeros) for k in range(count)}
    if len(parts) != count:
        raise InputError(f"{source}: {base} has only {len(parts)} of its {count} parts")
    try:
        return torch.cat([parts[str(k)] for k in range(count)])
    except RuntimeError:
        shapes = [list(part.shape) for part in parts.values()]
        raise InputError(f"{source}: the parts of {base} have shapes {shapes}") from None


def _finish(tensors: dict[str, Tensor], source: str) -> None:
    """Repairs tensors that some sources store in another shape, leave out, or split in two."""
    for name, rank in (("cls_token", 3), ("dist_token", 3), ("reg_token", 3), ("pos_embed", 3)):
        while name in tensors and tensors[name].ndim < rank:
            tensors[name] = tensors[name][None]
    _fill_missing_biases(tensors)
    if "norm_pre.weight" in tensors and "pre_logits.fc.weight" not in tensors:
        _call_projection(tensors)
    if "head_dist.weight" in tensors:
        _merge_heads(tensors, source)


def _fill_missing_biases(tensors: dict[str, Tensor]) -> None:
    for layer in ("patch_embed.proj", "pre_logits.fc", "head"):
        if f"{layer}.weight" in tensors and f"{layer}.bias" not in tensors:
            weight = tensors[f"{layer}.weight"]
            tensors[f"{layer}.bias"] = weight.new_zeros(weight.shape[:1])


def _call_projection(tensors: dict[str, Tensor]) -> None:
    """Renames CLIP's projection, which timm calls a head, without bias."""
    if "head.bias" in tensors and not tensors["head.bias"].any():
        for kind in ("weight", "bias"):
            tensors[f"pre_logits.fc.{kind}"] = tensors.pop(f"head.{kind}")


def _merge_heads(tensors: dict[str, Tensor], source: str) -> None:
    """Merges DeiT's two heads: their mean is one head on both tokens side by side."""
    try:
        weights = [tensors["head.weight"], tensors.pop("head_dist.weight")]
        biases = [tensors["head.bias"], tensors.pop("head_dist.bias")]
        tensors["head.weight"] = torch.cat(weights, dim=1) / 2
        tensors["head.bias"] = torch.stack(biases).mean(dim=0)
    except (KeyError, RuntimeError):
        raise InputError(
            f"{source}: head and head_dist (distillation) do not both have weight and bias of one "
            "shape"
        ) from None
