"""The architecture that a checkpoint's shapes have, completed by hints of its user and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vit_edge.runtime.errors import InputError
from vit_edge.vit.config import POOLS, BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.hints import HintSource, ModelHints, resolve
from vit_edge.vit.variants import VARIANTS, Variant

from .checkpoint import Checkpoint

AMBIGUOUS_POOL = "timm"
"""Naming in which models with and without a class token pool alike: elsewhere a class token that is
there is the pool."""
Shapes = Mapping[str, tuple[int, ...]]
_NEEDED = (
    "patch_embed.proj.weight",
    "pos_embed",
    "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.mlp.fc2.weight",
)

OTHER_DOORS = (
    "give the model that it is of: timm:NAME, torchvision:NAME or FILE.py:FUNCTION with --weights "
    "FILE, hf:FOLDER for a folder of save_pretrained, or --onnx FILE"
)
"""Advice on a checkpoint that our ViT does not know, for messages."""


@dataclass(frozen=True)
class Architecture:
    """A configuration and its origin.

    Attributes:
        native: Rows and columns of patches that the checkpoint's positions are for.
        hints: All other hints, found by the same rules.
        variant: Name of the variant of this size, or None.
        inferred: The shapes' part, and what was given or read, in words.
        assumed: The assumptions, in words.
    """

    config: ViTConfig
    native: tuple[int, int]
    hints: ModelHints
    variant: str | None
    inferred: str
    assumed: tuple[str, ...]


def find_architecture(
    checkpoint: Checkpoint, user: ModelHints, named: Variant | None = None
) -> Architecture:
    """Completes the checkpoint's shapes by hints, in this order: those of the user, of the file, of
    the variant that the user named, of the source's conventions, of a variant of the same size.

    Raises:
        InputError: naming the tensors, or the options, that are missing.
    """
    shapes = {name: tuple(value.shape) for name, value in checkpoint.tensors.items()}
    missing = [name for name in _NEEDED if name not in shapes]
    if missing:
        raise InputError(
            f"{checkpoint.source} is no plain ViT of {checkpoint.naming}: it has no "
            f"{', '.join(missing)} (in this project's names). If it is whole, {OTHER_DOORS}"
        )
    same_size = next((n for n, v in VARIANTS.items() if _size(shapes) == _size_of(v.config)), None)
    resolved = resolve(_hint_sources(checkpoint, shapes, user, named, same_size))
    hints = resolved.hints
    _require_whole_patches(user, shapes)
    try:
        config, native = _complete(checkpoint, shapes, hints)
    except InputError:
        raise
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{checkpoint.source} has shapes that make no ViT ({error}): is it whole, and a ViT?"
        ) from None
    stated = f"; {', '.join(resolved.stated)}" if resolved.stated else ""
    return Architecture(
        config,
        native,
        hints,
        same_size,
        _describe(config, native, hints) + stated,
        (*resolved.assumed, *_assumed_pool(checkpoint, config, hints), *checkpoint.assumed),
    )


def _require_whole_patches(user: ModelHints, shapes: Shapes) -> None:
    """Raises InputError if patches do not tile the image size that the user asks for."""
    patch = (*shapes["patch_embed.proj.weight"], 0, 0, 0)[2]
    size = user.img_size
    if size is None or not patch or not any(edge % patch for edge in size):
        return
    below, above = ([max(1, edge // patch + more) * patch for edge in size] for more in (0, 1))
    raise InputError(
        f"an image size of {_size_text(size)} is no multiple of the model's patches of {patch} "
        f"pixels: give --image-size {_size_text(below)} or {_size_text(above)}"
    )


def _size_text(size: Sequence[int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _assumed_pool(checkpoint: Checkpoint, config: ViTConfig, hints: ModelHints) -> tuple[str, ...]:
    """Returns the pool in words where the same tensors may be of a model with another one: timm's
    global_pool="avg" without fc_norm leaves no trace.
    """
    pool = config.readout.pool
    if hints.pool is not None or checkpoint.naming != AMBIGUOUS_POOL or pool != "class_token":
        return ()
    return (f"pool {pool} (usual for timm; the tensors fit mean as well: --pool mean)",)


def _hint_sources(
    checkpoint: Checkpoint,
    shapes: Shapes,
    user: ModelHints,
    named: Variant | None,
    same_size: str | None,
) -> list[HintSource]:
    """Lists the sources of hints; the first that knows a hint wins."""
    sources = [HintSource("given", user, False)]
    if checkpoint.config is not None:
        sources.append(HintSource("file", _hints_of(checkpoint.config), False))
    sources += [
        HintSource("file", checkpoint.hints, False),
        HintSource("shapes", _hints_in(shapes), False),
    ]
    if named is not None:
        sources.append(HintSource("as MODEL", named.hints, True))
    arch = checkpoint.arch
    if arch is not None and _size(shapes)[:3] == _size_of(VARIANTS[arch].config)[:3]:
        sources.append(HintSource(f"as {arch}, which the file names", VARIANTS[arch].hints, True))
    sources.append(HintSource(f"usual for {checkpoint.naming}", checkpoint.conventions, True))
    if same_size is not None:
        sources.append(HintSource(f"as {same_size}", VARIANTS[same_size].hints, True))
    for name, variant in VARIANTS.items():
        if _size(shapes)[:2] == _size_of(variant.config)[:2]:
            heads = ModelHints(n_heads=variant.config.n_heads)
            sources.append(HintSource(f"as {name}", heads, True))
    return sources


def _size(shapes: Shapes) -> tuple[object, ...]:
    """Returns width, depth and the other properties that tell variants apart."""
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


def _hints_in(shapes: Shapes) -> ModelHints:
    """Reads the size of a head from its normalised queries."""
    if "blocks.0.attn.q_norm.weight" not in shapes:
        return ModelHints()
    head = shapes["blocks.0.attn.q_norm.weight"][0]
    return ModelHints(n_heads=shapes["patch_embed.proj.weight"][0] // max(head, 1))


def _hints_of(config: ViTConfig) -> ModelHints:
    return ModelHints(
        native_size=config.image_size,
        n_heads=config.n_heads,
        norm_eps=config.block.norm_eps,
        mlp=config.block.mlp,
        pool=config.readout.pool,
    )


def _complete(
    checkpoint: Checkpoint, shapes: Shapes, hints: ModelHints
) -> tuple[ViTConfig, tuple[int, int]]:
    """Returns the configuration, and the grid of the checkpoint's positions."""
    dim, channels, patch, width = shapes["patch_embed.proj.weight"]
    if patch != width:
        raise ValueError(f"patches of {patch}x{width} pixels are not square")
    if hints.n_heads is None:
        raise InputError(
            f"{checkpoint.source}: the number of attention heads is not in the tensors, and no "
            f"known variant has width {dim} and depth {_depth(shapes)}: give --heads"
        )
    embedding, hidden = _embedding(shapes), shapes["blocks.0.mlp.fc2.weight"][1]
    native = _native_grid(shapes["pos_embed"][-2], embedding, patch, hints)
    gated = shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden
    defaults = BlockOptions()
    block = BlockOptions(
        norm_eps=defaults.norm_eps if hints.norm_eps is None else hints.norm_eps,
        mlp="swiglu" if gated else hints.mlp or defaults.mlp,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
    )
    config = ViTConfig(
        img_size=hints.img_size or (native[0] * patch, native[1] * patch),
        patch_size=patch,
        in_channels=channels,
        num_classes=shapes.get("head.weight", (0,))[0],
        embed_dim=dim,
        depth=_depth(shapes),
        n_heads=hints.n_heads,
        mlp_ratio=hidden / dim,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        embedding=embedding,
        block=block,
        readout=_readout(shapes, hints),
    )
    header = checkpoint.config
    if header is not None:  # it knows what shapes cannot tell
        readout = replace(config.readout, representation=header.readout.representation)
        config = replace(config, mlp_ratio=header.mlp_ratio, readout=readout)
    return config, native


def _readout(shapes: Shapes, hints: ModelHints) -> ReadoutOptions:
    size = shapes.get("pre_logits.fc.weight", (0,))[0]
    width = shapes["patch_embed.proj.weight"][0]
    next_linear = shapes.get("pre_logits.fc.weight") or shapes.get("head.weight") or (0, width)
    if next_linear[1] == 2 * width:
        pool = "class_and_distillation" if "dist_token" in shapes else "class_token_and_mean"
    elif "fc_norm.weight" in shapes:
        pool = "mean_then_norm"
    else:
        pool = "class_token" if "cls_token" in shapes else "mean"
    representation = "linear" if "norm_pre.weight" in shapes else "tanh"
    hinted = hints.pool or pool
    if hinted == "mean" and "fc_norm.weight" in shapes:
        hinted = "mean_then_norm"
    if hinted == "class_token" and "class_token" in POOLS[pool].tokens:
        hinted = pool  # the head's width says more than the word
    return ReadoutOptions(hinted, size, representation)


def require_variant(name: str, config: ViTConfig, source: str) -> None:
    """Raises InputError if a checkpoint's architecture is not that of the variant `name`."""
    variant = VARIANTS[name].config
    different = [
        f"{field} {getattr(config, field)}, not {getattr(variant, field)}"
        for field in ("embed_dim", "depth", "n_heads", "patch_size", "in_channels", "embedding")
        if getattr(config, field) != getattr(variant, field)
    ]
    if different:
        raise InputError(
            f"{source} is of another model than {name} ({'; '.join(different)}): name the MODEL "
            "that it is, or none"
        )


def _native_grid(
    positions: int, embedding: EmbeddingOptions, patch: int, hints: ModelHints
) -> tuple[int, int]:
    """Finds rows and columns of the positions, with or without those of the tokens before them."""
    before = int(embedding.class_token) + int(embedding.distillation_token)
    prefixes = (before, int(embedding.class_token), 0, before + embedding.registers)
    for size in (hints.native_size, hints.img_size):
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


def _describe(config: ViTConfig, native: tuple[int, int], hints: ModelHints) -> str:
    """Puts the shapes into words."""
    square = native[0] == native[1] and hints.native_size is None and hints.img_size is None
    sizes = [
        f"width {config.embed_dim}",
        f"depth {config.depth}",
        f"patches of {config.patch_size}",
        f"MLP of {config.mlp_dim}",
        f"{config.num_classes} classes" if config.num_classes else "no head",
        f"positions of {native[0]}x{native[1]} patches{', read as a square' if square else ''}",
        f"pool {config.readout.pool}",
    ]
    options = {
        "no QKV bias": not config.qkv_bias,
        "no class token": not config.embedding.class_token,
        "distillation token": config.embedding.distillation_token,
        f"{config.embedding.registers} registers": config.embedding.registers,
        "LayerNorm before the blocks": config.embedding.norm,
        "LayerScale": config.block.layer_scale,
        "SwiGLU": config.block.mlp == "swiglu",
        "QK norm": config.block.qk_norm,
        f"representation of {config.readout.representation_size}, "
        f"{config.readout.representation}": (config.readout.representation_size),
    }
    return ", ".join([*sizes, *(text for text, present in options.items() if present)])
