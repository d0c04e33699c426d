"""What is to be exported: architecture, preprocessing and where the weights come from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import InputError
from runtime.preprocess import Preprocess
from vit.checkpoints import Checkpoint, build_model, encode_checkpoint, read_checkpoint
from vit.train import DEFAULT_MODEL, train_digits
from vit.variants import VARIANTS, Variant, find_variant
from vit.vision_transformer import VisionTransformer, ViTConfig

from .cache import file_sha256
from .progress import Update


@dataclass(frozen=True)
class ModelSource:
    """A model that can be made.

    Attributes:
        name: The variant's name.
        weights: In words: "trained here", "random" or the file's name.
        weights_key: Identifies the weights, for the cache.
        assumed: What was not said and taken from the variant.
    """

    name: str
    config: ViTConfig
    preprocess: Preprocess
    data: str
    file: Path | None
    weights: str
    weights_key: str
    assumed: tuple[str, ...]

    @property
    def random(self) -> bool:
        return self.weights == "random"

    @property
    def classes(self) -> int:
        return self.config.num_classes

    @property
    def facts(self) -> dict[str, str]:
        """For the manifest: the architecture."""
        return {name: str(value) for name, value in dataclasses.asdict(self.config).items()}

    @property
    def oracle(self) -> str:
        """Whose logits are the reference."""
        return "PyTorch"


def find_source(
    name: str | None,
    weights: Path | None,
    config: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ModelSource:
    """Resolves what the user asked for; weights are read once, to check that they fit.

    Raises:
        InputError: for an unknown model, or a file that is missing, damaged or of another shape.
    """
    if weights is not None:
        return _from_file(name, weights, config, mean, std)
    name = name or DEFAULT_MODEL
    variant = find_variant(name)
    architecture = variant.config if config is None else read_config(config, variant.config)
    words = "trained here" if name == DEFAULT_MODEL and config is None else "random"
    preprocess = _preprocess(variant, architecture, mean, std, assumed=[])
    return ModelSource(name, architecture, preprocess, variant.data, None, words, "", ())


def _from_file(
    name: str | None,
    weights: Path,
    config: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ModelSource:
    checkpoint, assumed = read_checkpoint(weights), list[str]()
    name = name or _matching_variant(checkpoint, weights.name)
    variant = find_variant(name)
    architecture = _architecture(checkpoint, config, variant, weights.name, assumed)
    build_model(architecture, checkpoint.tensors, weights.name)
    preprocess = _preprocess(variant, architecture, mean, std, assumed)
    return ModelSource(
        name,
        architecture,
        preprocess,
        variant.data,
        weights,
        weights.name,
        file_sha256(weights),
        tuple(assumed),
    )


def _matching_variant(checkpoint: Checkpoint, source: str) -> str:
    """The variant with the checkpoint's width, depth and patch size."""
    found = checkpoint.config or config_from_shapes(checkpoint, 1, source)
    for name, variant in VARIANTS.items():
        known = variant.config
        if (known.embed_dim, known.depth, known.patch_size) == (
            found.embed_dim,
            found.depth,
            found.patch_size,
        ):
            return name
    raise InputError(
        f"{source} has width {found.embed_dim}, depth {found.depth} and patches of "
        f"{found.patch_size}, which no known "
        "variant has: name a MODEL to take heads and preprocessing from, or give n_heads in "
        "--config"
    )


def _architecture(
    checkpoint: Checkpoint, config: Path | None, variant: Variant, source: str, assumed: list[str]
) -> ViTConfig:
    if config is not None:
        return read_config(config, variant.config)
    if checkpoint.config is not None:
        return checkpoint.config
    assumed.append(f"n_heads {variant.config.n_heads}")
    return config_from_shapes(checkpoint, variant.config.n_heads, source)


def read_config(path: Path, default: ViTConfig) -> ViTConfig:
    """A JSON object with fields of `ViTConfig`; those it leaves out are the variant's."""
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text())
        return dataclasses.replace(default, **fields)
    except (OSError, ValueError, TypeError) as error:
        known = ", ".join(field.name for field in dataclasses.fields(ViTConfig))
        raise InputError(
            f"{path} is not a configuration ({error}): give a JSON object with any of {known}"
        ) from None


def config_from_shapes(checkpoint: Checkpoint, n_heads: int, source: str) -> ViTConfig:
    """The architecture that the tensors of a timm checkpoint have; the number of heads is not in
    them.
    """
    shapes = {name: tuple(value.shape) for name, value in checkpoint.tensors.items()}
    needed = (
        "patch_embed.proj.weight",
        "pos_embed",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "head.weight",
    )
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise InputError(
            f"{source} does not look like a ViT of timm or vit-edge: {', '.join(missing)} missing"
        )
    try:
        dim, channels, patch, _ = shapes["patch_embed.proj.weight"]
        side = round((shapes["pos_embed"][1] - 1) ** 0.5)
        return ViTConfig(
            img_size=side * patch,
            patch_size=patch,
            in_channels=channels,
            num_classes=shapes["head.weight"][0],
            embed_dim=dim,
            depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            n_heads=n_heads,
            mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / dim,
            qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        )
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{source} has shapes that make no ViT ({error}): is it this variant?"
        ) from None


def _preprocess(
    variant: Variant,
    config: ViTConfig,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    assumed: list[str],
) -> Preprocess:
    default = variant.preprocess
    if default.channels != config.in_channels:
        default = dataclasses.replace(
            default,
            channels=config.in_channels,
            mean=(0.5,) * config.in_channels,
            std=(0.5,) * config.in_channels,
        )
    for name, given, value in (("mean", mean, default.mean), ("std", std, default.std)):
        if given is None:
            assumed.append(f"{name} {','.join(map(str, value))}")
    try:
        return dataclasses.replace(
            default,
            height=config.img_size,
            width=config.img_size,
            mean=mean or default.mean,
            std=std or default.std,
        )
    except ValueError as error:
        raise InputError(f"--mean and --std: {error}") from None


def make_weights(source: ModelSource, seed: int, update: Update) -> bytes:
    """The weights as safetensors: read, trained or random."""
    if source.file is not None:
        checkpoint = read_checkpoint(source.file)
        return encode_checkpoint(build_model(source.config, checkpoint.tensors, source.file.name))
    if source.weights == "trained here":
        return encode_checkpoint(train_digits(seed, update))
    torch.manual_seed(seed)
    return encode_checkpoint(VisionTransformer.from_config(source.config))


def load_model(path: Path) -> VisionTransformer:
    """A model from a file that `make_weights` made."""
    checkpoint = read_checkpoint(path)
    assert checkpoint.config is not None
    return build_model(checkpoint.config, checkpoint.tensors, path.name)
