"""Translation of a source's names and layout to the model's."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vit_edge.runtime.errors import InputError

from .checkpoint import Checkpoint, RawCheckpoint
from .choice import ChosenWeights, choose, is_copy, nearest
from .heads import find_head
from .lora import merge_adapters
from .names.base import PART

OWN = "vit-edge"
"""Naming of this project's own files: timm's, with the rest in the header."""
_BESIDE = re.compile(r"(head|head_dist|pre_logits\.fc)\.(weight|bias)")
"""Tensors of the model that may lie beside its prefix, as transformers' classifier does."""
_FOREIGN = re.compile(
    r"(?:criterion|\w*loss(?:es|_fn)?|optimizers?|(?:lr_)?schedulers?|n_averaged|mixup|"
    r"\w*metrics?|decoder\w*|mask_token|num_batches_tracked)(?:\..*)?"
)
"""Tensors of a training, and of decoders that pre-training throws away (MAE)."""
_SHOWN = 4


def to_canonical(raw: RawCheckpoint, key: str | None = None) -> Checkpoint:
    """Chooses the copy named `key`, or the one that is usual; renames, joins and reshapes.
    `raw.tensors` is emptied on the way.

    Raises:
        InputError: if the names are no known source's, two tensors claim one name, a tensor is not
            of dense floating-point numbers, or nothing is called `key`.
    """
    merged = merge_adapters(raw)
    choice = choose(raw, key)
    naming = choice.naming
    hints = raw.hints.or_else(naming.read_hints(raw.tensors))
    renamed = _rename(raw, choice)
    tensors, notes = renamed.tensors, [*_about_copies(choice), *merged]
    head_key = None if key is None or is_copy(key, choice) else key
    head = find_head(tensors, renamed.beside, raw.source, head_key)
    tensors.update(head.tensors)
    left_out = [*renamed.left_out, *(name for name in renamed.beside if name not in head.used)]
    assumed = list(head.assumed)
    if raw.config is None:
        assumed += _finish(tensors, raw.source)
    unsaid = [name for name in left_out if not _is_of_rival(name, choice)]
    if unsaid:
        notes.append(f"left out: {_counted(unsaid, choice.prefix)}")
    return Checkpoint(
        raw.source,
        OWN if raw.config is not None else naming.name,
        tensors,
        raw.config,
        hints,
        naming.conventions(tensors),
        tuple(left_out),
        (*notes, *head.notes),
        tuple(assumed),
        raw.arch,
    )


@dataclass
class _Renamed:
    """Tensors under the model's names; those beside it under their own, without its prefix."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def _rename(raw: RawCheckpoint, choice: ChosenWeights) -> _Renamed:
    naming, renamed = choice.naming, _Renamed()
    parts = defaultdict[str, dict[str, Tensor]](dict)
    for old in list(raw.tensors):
        tensor = raw.tensors.pop(old)
        name = _translate(old, choice)
        if name is None:
            short = old[len(nearest(old, choice.prefix)) :]
            foreign = _is_of_another(old, choice) or not tensor.is_floating_point()
            if foreign or short in renamed.beside:
                renamed.left_out.append(old)
            else:
                renamed.beside[short] = tensor
            continue
        if not name:
            renamed.left_out.append(old)
            continue
        _require_numbers(old, tensor, raw.source)
        base, mark, part = name.partition(PART)
        target = parts[base] if mark else renamed.tensors
        slot = part if mark else name
        if slot in target:
            raise InputError(f"{raw.source}: {old} is there twice, under two prefixes")
        target[slot] = naming.convert(old, tensor)
    for base in list(parts):
        renamed.tensors[base] = _join(base, parts.pop(base), raw.source)
    return renamed


def _translate(name: str, choice: ChosenWeights) -> str | None:
    """Returns the model's name; "" for a tensor that is no part of it, None for one beside it."""
    naming = choice.naming
    if name.startswith(choice.prefix):
        short = name[len(choice.prefix) :]
        return "" if _FOREIGN.fullmatch(short) else naming.translate(short) or ""
    short = name[len(nearest(name, choice.prefix)) :]
    if _is_of_another(name, choice):
        return None
    new = naming.translate(short)
    if new is None:
        return ""
    return new if new != short and _BESIDE.fullmatch(new) else None


def _is_of_another(name: str, choice: ChosenWeights) -> bool:
    """Tells whether a tensor belongs to a copy that was not chosen, or to a training."""
    own = nearest(name, choice.prefix)
    return _is_of_rival(name, choice) or bool(_FOREIGN.fullmatch(name[len(own) :]))


def _is_of_rival(name: str, choice: ChosenWeights) -> bool:
    """Tells whether a tensor stands nearer to a copy that was not chosen."""
    own = len(nearest(name, choice.prefix))
    return any(len(nearest(name, other)) > own for other in choice.others)


def _about_copies(choice: ChosenWeights) -> list[str]:
    if not choice.rivals:
        return []
    return [
        f"weights of {choice.key} are taken; {', '.join(choice.rivals)} "
        f"{'is' if len(choice.rivals) == 1 else 'are'} there too "
        f"(--checkpoint-key {choice.rivals[0]})"
    ]


def _counted(names: list[str], prefix: str) -> str:
    """Counts tensors by the module that they are of."""
    short = [name[len(nearest(name, prefix)) :] for name in names]
    groups = Counter(name.partition(".")[0].partition("/")[0] for name in short)
    listed = [f"{group} ({count})" for group, count in groups.most_common(_SHOWN)]
    rest = sum(groups.values()) - sum(count for _, count in groups.most_common(_SHOWN))
    more = f" and {rest} more" if rest else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}, of {', '.join(listed)}{more}"


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


def _finish(tensors: dict[str, Tensor], source: str) -> list[str]:
    """Repairs tensors that some sources store in another shape, leave out, or split in two; returns
    what it assumes.
    """
    for name, rank in (("cls_token", 3), ("dist_token", 3), ("reg_token", 3), ("pos_embed", 3)):
        while name in tensors and tensors[name].ndim < rank:
            tensors[name] = tensors[name][None]
    _fill_missing_biases(tensors)
    assumed = []
    if "norm_pre.weight" in tensors and "pre_logits.fc.weight" not in tensors:
        assumed += _call_projection(tensors)
    if "head_dist.weight" in tensors:
        _merge_heads(tensors, source)
    return assumed


def _fill_missing_biases(tensors: dict[str, Tensor]) -> None:
    for layer in ("patch_embed.proj", "pre_logits.fc", "head"):
        if f"{layer}.weight" in tensors and f"{layer}.bias" not in tensors:
            weight = tensors[f"{layer}.weight"]
            tensors[f"{layer}.bias"] = weight.new_zeros(weight.shape[:1])


def _call_projection(tensors: dict[str, Tensor]) -> list[str]:
    """Renames CLIP's projection, which timm calls a head, without bias."""
    if "head.bias" not in tensors or tensors["head.bias"].any():
        return []
    for kind in ("weight", "bias"):
        tensors[f"pre_logits.fc.{kind}"] = tensors.pop(f"head.{kind}")
    width = tensors["pre_logits.fc.weight"].shape[0]
    return [f"head is CLIP's projection to {width} features (it has no bias), not a classifier"]


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
