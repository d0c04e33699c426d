"""The Vision Transformer of "An Image is Worth 16x16 Words" (Dosovitskiy et al., arXiv 2010.11929).

Shapes in comments: B images, C channels, N tokens (patches and the class token), D embedding, H
heads. Parameters carry timm's names, so that its checkpoints load as they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
POSITION_STD = 0.02
MAX_SIZE = 1 << 16


@dataclass(frozen=True)
class ViTConfig:
    """The architecture, in the paper's terms.

    Raises:
        ValueError: if sizes are not positive, patches do not tile the image, or heads do not divide
            the embedding.
    """

    img_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    n_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kinds = {"mlp_ratio": (int, float), "qkv_bias": (bool,)}.get(name, (int,))
            if type(value) not in kinds:
                raise ValueError(f"{name} is {value!r}, not of type {kinds[-1].__name__}")
            if name != "qkv_bias" and not 0 < value <= MAX_SIZE:
                raise ValueError(f"{name} is {value}, it must be between 1 and {MAX_SIZE}")
        if self.img_size % self.patch_size:
            raise ValueError(
                f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.embed_dim % self.n_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of n_heads {self.n_heads}"
            )

    @property
    def num_patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


class PatchEmbedding(nn.Module):
    """Cuts the image into patches and projects each one linearly (equation 1): a convolution with
    stride = kernel.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            config.in_channels, config.embed_dim, config.patch_size, config.patch_size
        )

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.proj(images)  # [B, C, height, width] -> [B, D, rows, columns]
        return x.flatten(2).transpose(1, 2)  # [B, N - 1, D]


class MultiHeadSelfAttention(nn.Module):
    """Softmax(Q K^T / sqrt(D / H)) V for each head, then a projection (appendix A, equations 5 to
    8).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        heads = (batch, tokens, self.n_heads, dim // self.n_heads)
        q, k, v = (
            t.reshape(heads).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1)
        )  # each [B, H, N, D / H]
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, dim))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two Linears with a GELU between them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm and inside a residual connection (equations 2 and
    3).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        self.attn = MultiHeadSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Classifies images: float32 `[B, in_channels, img_size, img_size]`, normalised -> logits `[B,
    num_classes]`.

    Args:
        img_size: Height and width of the images in pixels.
        patch_size: Height and width of a patch in pixels; divides `img_size`.
        in_channels: Colour channels.
        num_classes: Length of the logits.
        embed_dim: D, the width of the tokens.
        depth: Number of transformer blocks.
        n_heads: Attention heads; divides `embed_dim`.
        mlp_ratio: Width of the MLP's hidden layer relative to `embed_dim`.
        qkv_bias: Whether the Q, K and V projections have a bias.

    Raises:
        ValueError: if the sizes do not fit each other.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        n_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        config = ViTConfig(
            img_size,
            patch_size,
            in_channels,
            num_classes,
            embed_dim,
            depth,
            n_heads,
            mlp_ratio,
            qkv_bias,
        )
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, embed_dim))
        self.blocks = nn.Sequential(*(TransformerBlock(config) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_classes)
        self._initialise()

    @classmethod
    def from_config(cls, config: ViTConfig) -> VisionTransformer:
        return cls(**asdict(config))

    def _initialise(self) -> None:
        """As the original JAX code does: Xavier uniform weights, zero biases, small position
        embeddings.
        """
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)
        nn.init.trunc_normal_(self.cls_token, std=POSITION_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        class_token = self.cls_token.expand(patches.shape[0], -1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.pos_embed  # [B, N, D]
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])  # type: ignore[no-any-return]
