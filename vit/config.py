"""The architecture of a ViT: the paper's sizes, and the options that its relatives add."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

MAX_SIZE, MAX_DEPTH = 1 << 16, 1 << 10
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
MLPS = (*ACTIVATIONS, "swiglu")
POOLS = ("class_token", "mean", "mean_then_norm", "class_token_and_mean", "class_and_distillation")
REPRESENTATIONS = ("tanh", "linear")


@dataclass(frozen=True)
class EmbeddingOptions:
    """What joins the patches before the first block.

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
        """How many tokens precede the patches."""
        return int(self.class_token) + int(self.distillation_token) + self.registers


@dataclass(frozen=True)
class BlockOptions:
    """How a transformer block differs from the paper's.

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
    """How tokens become features.

    Attributes:
        pool: "class_token"; "mean" of the normalised patch tokens; "mean_then_norm", which
            normalises the mean; "class_token_and_mean" side by side (DINOv2's classifier);
            "class_and_distillation" side by side (DeiT's two heads, averaged, are one head on
            both).
        representation_size: Width of a Linear between pool and head; 0: none.
        representation: What follows that Linear: "tanh" (the paper's pre-training head) or nothing,
            "linear" (CLIP's projection).
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
        """Width of what the pool gives."""
        return self.embed_dim * (1 + ("_and_" in self.readout.pool))

    @property
    def feature_dim(self) -> int:
        """Width of the features, which the head reads."""
        return self.readout.representation_size or self.pooled_dim

    @property
    def outputs(self) -> int:
        """Width of the model's output: classes, or features where there is no head."""
        return self.num_classes or self.feature_dim


def _require_sizes(config: ViTConfig) -> None:
    sizes = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if isinstance(config.img_size, tuple):
        if len(config.img_size) != 2:
            raise ValueError(f"img_size is {config.img_size}, not a number or (height, width)")
        sizes["img_size"], sizes["img_size's width"] = config.img_size
    for name, value in sizes.items():
        if name in ("embedding", "block", "readout"):
            continue
        kinds = {"mlp_ratio": (int, float), "qkv_bias": (bool,)}.get(name, (int,))
        if type(value) not in kinds:
            raise ValueError(f"{name} is {value!r}, not of type {kinds[-1].__name__}")
        smallest = 0 if name == "num_classes" else 1
        if name == "mlp_ratio":
            if not 0 < value <= MAX_SIZE or config.mlp_dim < 1:
                raise ValueError(f"mlp_ratio is {value}, which gives no hidden layer")
        elif name != "qkv_bias":
            largest = MAX_DEPTH if name == "depth" else MAX_SIZE
            if not smallest <= value <= largest:
                raise ValueError(f"{name} is {value}, it must be between {smallest} and {largest}")


def _require_options(config: ViTConfig) -> None:
    embedding, block, readout = config.embedding, config.block, config.readout
    for group in (embedding, block, readout):
        for field in dataclasses.fields(group):
            value: Any = getattr(group, field.name)
            kinds = {"float": (int, float)}.get(str(field.type), (type(field.default),))
            if type(value) not in kinds:
                raise ValueError(f"{field.name} is {value!r}, not of type {kinds[-1].__name__}")
    for name, value, known in (
        ("mlp", block.mlp, MLPS),
        ("pool", readout.pool, POOLS),
        ("representation", readout.representation, REPRESENTATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, it must be one of {', '.join(known)}")
    if not (math.isfinite(block.norm_eps) and 0 < block.norm_eps < 1):
        raise ValueError(f"norm_eps is {block.norm_eps}, it must be between 0 and 1")
    if min(embedding.registers, readout.representation_size) < 0 or (
        max(embedding.registers, readout.representation_size) > MAX_SIZE
    ):
        raise ValueError("registers and representation_size must be between 0 and 65536")
    if "class" in readout.pool and not embedding.class_token:
        raise ValueError(f"pool {readout.pool!r} needs a class token")
    if "distillation" in readout.pool and not embedding.distillation_token:
        raise ValueError(f"pool {readout.pool!r} needs a distillation token")


def config_from_fields(default: ViTConfig, fields: Any) -> ViTConfig:
    """`default` with these fields replaced, as they come from JSON; options may be given in part.

    Raises:
        ValueError: for unknown fields or values that do not fit.
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
