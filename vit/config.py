"""The architecture of a ViT: the paper's sizes, and the options that its relatives add."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

MAX_SIZE, MAX_DEPTH = 1 << 16, 1 << 10
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
MLPS = (*ACTIVATIONS, "swiglu")
REPRESENTATIONS = ("tanh", "linear")


@dataclass(frozen=True)
class Pooling:
    """A pool's width in embeddings, and the tokens that it needs (fields of `EmbeddingOptions`)."""

    width: int = 1
    tokens: tuple[str, ...] = ()


POOLS = {
    "class_token": Pooling(tokens=("class_token",)),
    "mean": Pooling(),
    "mean_then_norm": Pooling(),
    "class_token_and_mean": Pooling(2, ("class_token",)),
    "class_and_distillation": Pooling(2, ("class_token", "distillation_token")),
}


@dataclass(frozen=True)
class EmbeddingOptions:
    """Tokens and norms that join the patches before the first block.

    Attributes:
        class_token: The paper's learned token, with a position of its own.
        distillation_token: DeiT's second token (arXiv 2012.12877).
        registers: Number of register tokens (arXiv 2309.16588); they have no position.
        norm: A LayerNorm after the positions (CLIP, arXiv 2103.00020).
    """

    class_token: bool = True
    distillation_token: bool = False
    registers: int = 0
    norm: bool = False

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patches."""
        return int(self.class_token) + int(self.distillation_token) + self.registers


@dataclass(frozen=True)
class BlockOptions:
    """Options of a transformer block beyond the paper's.

    Attributes:
        norm_eps: Epsilon of every LayerNorm.
        mlp: GELU exact, by tanh (as in the original JAX code) or by sigmoid (CLIP), or a gated
            "swiglu" (arXiv 2002.05202; DINOv2's largest).
        layer_scale: Learned gains on both residual branches (arXiv 2103.17239).
        qk_norm: A LayerNorm on every head's queries and keys (arXiv 2302.05442).
    """

    norm_eps: float = 1e-6
    mlp: str = "gelu"
    layer_scale: bool = False
    qk_norm: bool = False


@dataclass(frozen=True)
class ReadoutOptions:
    """Way from tokens to features.

    Attributes:
        pool: "class_token"; "mean" of the normalised patch tokens; "mean_then_norm", which
            normalises the mean; "class_token_and_mean" side by side (DINOv2's classifier);
            "class_and_distillation" side by side (DeiT's two heads, averaged, are one head on
            both).
        representation_size: Width of a Linear between pool and head; 0: none.
        representation: Activation after that Linear: "tanh" (the paper's pre-training head), or
            none, "linear" (CLIP's projection).
    """

    pool: str = "class_token"
    representation_size: int = 0
    representation: str = "tanh"


@dataclass(frozen=True)
class ViTConfig:
    """The architecture, in the paper's terms.

    Attributes:
        img_size: Side of square images in pixels, or (height, width).
        num_classes: Length of the logits; 0: no head, the model gives features.

    Raises:
        ValueError: if a value is of another type or out of range, patches do not tile the image,
            heads do not divide the embedding, or options contradict each other.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    n_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    embedding: EmbeddingOptions = EmbeddingOptions()
    block: BlockOptions = BlockOptions()
    readout: ReadoutOptions = ReadoutOptions()

    def __post_init__(self) -> None:
        if isinstance(self.img_size, tuple) and self.img_size[1:] == self.img_size[:1]:
            object.__setattr__(self, "img_size", self.img_size[0])  # one form for squares
        _require_sizes(self)
        _require_options(self)
        for size in self.image_size:
            if size % self.patch_size:
                raise ValueError(
                    f"img_size {size} is not a multiple of patch_size {self.patch_size}"
                )
        if self.embed_dim % self.n_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of n_heads {self.n_heads}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.img_size if isinstance(self.img_size, tuple) else (self.img_size, self.img_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def mlp_dim(self) -> int:
        return round(self.embed_dim * self.mlp_ratio)

    @property
    def pooled_dim(self) -> int:
        """Width of the pool's output."""
        return self.embed_dim * POOLS[self.readout.pool].width

    @property
    def feature_dim(self) -> int:
        """Width of the features, the head's input."""
        return self.readout.representation_size or self.pooled_dim

    @property
    def outputs(self) -> int:
        """Width of the model's output: classes, or features where there is no head."""
        return self.num_classes or self.feature_dim


def _require_sizes(config: ViTConfig) -> None:
    if isinstance(config.img_size, tuple) and len(config.img_size) != 2:
        raise ValueError(f"img_size is {config.img_size}, not a number or (height, width)")
    height, width = config.image_size
    for name, value, least, most in (
        ("img_size", height, 1, MAX_SIZE),
        ("img_size's width", width, 1, MAX_SIZE),
        ("patch_size", config.patch_size, 1, MAX_SIZE),
        ("in_channels", config.in_channels, 1, MAX_SIZE),
        ("num_classes", config.num_classes, 0, MAX_SIZE),
        ("embed_dim", config.embed_dim, 1, MAX_SIZE),
        ("depth", config.depth, 1, MAX_DEPTH),
        ("n_heads", config.n_heads, 1, MAX_SIZE),
        ("registers", config.embedding.registers, 0, MAX_SIZE),
        ("representation_size", config.readout.representation_size, 0, MAX_SIZE),
    ):
        _require_type(name, value, int)
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}, it must be between {least} and {most}")
    _require_type("qkv_bias", config.qkv_bias, bool)
    _require_type("mlp_ratio", config.mlp_ratio, float)
    if not 0 < config.mlp_ratio <= MAX_SIZE or config.mlp_dim < 1:
        raise ValueError(f"mlp_ratio is {config.mlp_ratio}, which gives no hidden layer")


def _require_options(config: ViTConfig) -> None:
    embedding, block, readout = config.embedding, config.block, config.readout
    for group in (embedding, block, readout):
        for field in dataclasses.fields(group):
            _require_type(field.name, getattr(group, field.name), type(field.default))
    for name, value, known in (
        ("mlp", block.mlp, MLPS),
        ("pool", readout.pool, tuple(POOLS)),
        ("representation", readout.representation, REPRESENTATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, it must be one of {', '.join(known)}")
    if not 0 < block.norm_eps < 1:
        raise ValueError(f"norm_eps is {block.norm_eps}, it must be between 0 and 1")
    for token in POOLS[readout.pool].tokens:
        if not getattr(embedding, token):
            raise ValueError(f"pool {readout.pool!r} needs a {token.replace('_', ' ')}")


def _require_type(name: str, value: object, kind: type) -> None:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{name} is {value!r}, not of type {kind.__name__}")


def config_from_fields(default: ViTConfig, fields: Any) -> ViTConfig:
    """Returns `default` with these fields, parsed from JSON, replaced; groups may be partial.

    Raises:
        ValueError: for unknown fields, or values that do not fit.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"{str(fields)[:40]!r} is not an object")
    return _replace(default, fields)  # type: ignore[no-any-return]


def _replace(default: Any, fields: dict[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(default)}
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"unknown field {name[:40]!r}, known are {', '.join(sorted(known))}")
        old = getattr(default, name)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is {str(value)[:40]!r}, not an object")
            value = _replace(old, value)
        changes[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(default, **changes)
