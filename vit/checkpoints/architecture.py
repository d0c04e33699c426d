"""The architecture that a checkpoint's shapes have, completed by what its user and files say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vit_edge.runtime.errors import InputError
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.facts import Facts, Witness, resolve
from vit_edge.vit.variants import VARIANTS, Variant

from .checkpoint import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]
_NEEDED = (
    "patch_embed.proj.weight",
    "pos_embed",
    "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.mlp.fc2.weight",
)


@dataclass(frozen=True)
class Architecture:
    """A configuration and where it comes from.

    Attributes:
        config: What the model will be.
        native: Rows and columns of patches that the checkpoint's positions are for.
        facts: Everything else that was found, by the same rules.
        variant: Name of the variant of this size, or None.
        inferred: What the shapes told, in words.
        assumed: What nobody said, in words.
    """

    config: ViTConfig
    native: tuple[int, int]
    facts: Facts
    variant: str | None
    inferred: str
    assumed: tuple[str, ...]


def find_architecture(
    checkpoint: Checkpoint, given: Facts, named: Variant | None = None
) -> Architecture:
    """Completes what the shapes tell, in this order: `given` by the user, the file, the variant
    that the user named, the usual for its source, a variant of the same size.

    Raises:
        InputError: naming the tensors, or the options, that are missing.
    """
    shapes = {name: tuple(value.shape) for name, value in checkpoint.tensors.items()}
    missing = [name for name in _NEEDED if name not in shapes]
    if missing:
        raise InputError(
            f"{checkpoint.source} is no whole ViT of {checkpoint.naming}: it has no "
            f"{', '.join(missing)} (in this project's names)"
        )
    same_size = next((n for n, v in VARIANTS.items() if _size(shapes) == _size_of(v.config)), None)
    facts, assumed = resolve(_witnesses(checkpoint, shapes, given, named, same_size))
    try:
        config, native = _complete(checkpoint, shapes, facts)
    except InputError:
        raise
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{checkpoint.source} has shapes that make no ViT ({error}): is it whole, and a ViT?"
        ) from None
    return Architecture(config, native, facts, same_size, _describe(config), assumed)


def _witnesses(
    checkpoint: Checkpoint,
    shapes: Shapes,
    given: Facts,
    named: Variant | None,
    same_size: str | None,
) -> list[Witness]:
    """Who is asked, first to last."""
    witnesses = [Witness("given", given, False)]
    if checkpoint.config is not None:
        witnesses.append(Witness("file", _facts_of(checkpoint.config), False))
    witnesses += [
        Witness("file", checkpoint.facts, False),
        Witness("shapes", _facts_in(shapes), False),
    ]
    if named is not None:
        witnesses.append(Witness("as MODEL", named.facts, True))
    witnesses.append(Witness(f"usual for {checkpoint.naming}", checkpoint.conventions, True))
    if same_size is not None:
        witnesses.append(Witness(f"as {same_size}", VARIANTS[same_size].facts, True))
    for name, variant in VARIANTS.items():
        if _size(shapes)[:2] == _size_of(variant.config)[:2]:
            heads = Facts(n_heads=variant.config.n_heads)
            witnesses.append(Witness(f"as {name}", heads, True))
    return witnesses


def _size(shapes: Shapes) -> tuple[object, ...]:
    """Width, depth and what else tells the variants apart."""
    dim, _, patch, _ = (*shapes["patch_embed.proj.weight"], 0, 0, 0)[:4]
    return dim, _depth(shapes), patch, _embedding(shapes), "blocks.0.ls1.gamma" in shapes


def _size_of(config: ViTConfig) -> tuple[object, ...]:
    layer_scale = config.block.layer_scale
    return config.embed_dim, config.depth, config.patch_size, config.embedding, layer_scale


def _depth(shapes: Shapes) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})


def _embedding(shapes: Shapes) -> EmbeddingOptions:
    registers = shapes.get("reg_token", (1, 0, 0))[1]
    return EmbeddingOptions(
        "cls_token" in shapes, "dist_token" in shapes, registers, "norm_pre.weight" in shapes
    )


def _facts_in(shapes: Shapes) -> Facts:
    """Normalised queries tell the size of a head."""
    if "blocks.0.attn.q_norm.weight" not in shapes:
        return Facts()
    head = shapes["blocks.0.attn.q_norm.weight"][0]
    return Facts(n_heads=shapes["patch_embed.proj.weight"][0] // max(head, 1))


def _facts_of(config: ViTConfig) -> Facts:
    return Facts(
        native_size=config.image_size,
        n_heads=config.n_heads,
        norm_eps=config.block.norm_eps,
        mlp=config.block.mlp,
        pool=config.readout.pool,
    )


def _complete(
    checkpoint: Checkpoint, shapes: Shapes, facts: Facts
) -> tuple[ViTConfig, tuple[int, int]]:
    """The configuration, and the grid of the checkpoint's positions."""
    dim, channels, patch, width = shapes["patch_embed.proj.weight"]
    if patch != width:
        raise ValueError(f"patches of {patch}x{width} pixels are not square")
    if facts.n_heads is None:
        raise InputError(
            f"{checkpoint.source}: the number of attention heads is not in the tensors, and no "
            f"known variant has width {dim} and depth {_depth(shapes)}: give --heads"
        )
    embedding, hidden = _embedding(shapes), shapes["blocks.0.mlp.fc2.weight"][1]
    native = _native_grid(shapes["pos_embed"][-2], embedding, patch, facts)
    gated = shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden
    defaults = BlockOptions()
    block = BlockOptions(
        norm_eps=defaults.norm_eps if facts.norm_eps is None else facts.norm_eps,
        mlp="swiglu" if gated else facts.mlp or defaults.mlp,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
    )
    config = ViTConfig(
        img_size=facts.img_size or (native[0] * patch, native[1] * patch),
        patch_size=patch,
        in_channels=channels,
        num_classes=shapes.get("head.weight", (0,))[0],
        embed_dim=dim,
        depth=_depth(shapes),
        n_heads=facts.n_heads,
        mlp_ratio=hidden / dim,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        embedding=embedding,
        block=block,
        readout=_readout(shapes, facts),
    )
    own = checkpoint.config
    if own is not None:  # the file's own words where shapes cannot tell
        readout = replace(config.readout, representation=own.readout.representation)
        config = replace(config, mlp_ratio=own.mlp_ratio, readout=readout)
    return config, native


def _readout(shapes: Shapes, facts: Facts) -> ReadoutOptions:
    size = shapes.get("pre_logits.fc.weight", (0,))[0]
    width = shapes["patch_embed.proj.weight"][0]
    reader = shapes.get("pre_logits.fc.weight") or shapes.get("head.weight") or (0, width)
    if reader[1] == 2 * width:
        pool = "class_and_distillation" if "dist_token" in shapes else "class_token_and_mean"
    elif "fc_norm.weight" in shapes:
        pool = "mean_then_norm"
    else:
        pool = "class_token" if "cls_token" in shapes else "mean"
    kind = "linear" if "norm_pre.weight" in shapes else "tanh"
    asked = facts.pool or pool
    if asked == "mean" and "fc_norm.weight" in shapes:
        asked = "mean_then_norm"
    if asked == "class_token" and pool.startswith("class_"):
        asked = pool  # the head's width says more than the word
    return ReadoutOptions(asked, size, kind)


def require_variant(name: str, config: ViTConfig, source: str) -> None:
    """Raises InputError if a checkpoint's architecture is not that of the variant `name`."""
    wanted = VARIANTS[name].config
    different = [
        f"{field} {getattr(config, field)}, not {getattr(wanted, field)}"
        for field in ("embed_dim", "depth", "n_heads", "patch_size", "in_channels", "embedding")
        if getattr(config, field) != getattr(wanted, field)
    ]
    if different:
        raise InputError(
            f"{source} is of another model than {name} ({'; '.join(different)}): name the MODEL "
            "that it is, or none"
        )


def _native_grid(
    positions: int, embedding: EmbeddingOptions, patch: int, facts: Facts
) -> tuple[int, int]:
    """Rows and columns of the positions, with or without those of the tokens before them."""
    before = int(embedding.class_token) + int(embedding.distillation_token)
    prefixes = (before, int(embedding.class_token), 0, before + embedding.registers)
    for size in (facts.native_size, facts.img_size):
        if size is not None:
            grid = size[0] // patch, size[1] // patch
            if positions - grid[0] * grid[1] in prefixes:
                return grid
    for prefix in prefixes:
        side = math.isqrt(max(positions - prefix, 0))
        if side * side == positions - prefix:
            return side, side
    raise ValueError(
        f"{positions} positions are no square grid: give the checkpoint's --image-size HxW"
    )


def _describe(config: ViTConfig) -> str:
    """What the shapes told, in words."""
    parts = [
        f"width {config.embed_dim}",
        f"depth {config.depth}",
        f"patches of {config.patch_size}",
        f"MLP of {config.mlp_dim}",
        f"{config.num_classes} classes" if config.num_classes else "no head",
        f"pool {config.readout.pool}",
    ]
    extras = {
        "no QKV bias": not config.qkv_bias,
        "no class token": not config.embedding.class_token,
        "distillation token": config.embedding.distillation_token,
        f"{config.embedding.registers} registers": config.embedding.registers,
        "LayerNorm before the blocks": config.embedding.norm,
        "LayerScale": config.block.layer_scale,
        "SwiGLU": config.block.mlp == "swiglu",
        "QK norm": config.block.qk_norm,
        f"representation of {config.readout.representation_size}": (
            config.readout.representation_size
        ),
    }
    return ", ".join([*parts, *(text for text, there in extras.items() if there)])
