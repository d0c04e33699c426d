"""The Vision Transformer of "An Image is Worth 16x16 Words" (Dosovitskiy et al., arXiv 2010.11929),
with the options of its relatives (see `vit.config`).

Shapes in comments: B images, C channels, N tokens (patches and those before them), D embedding, H
heads. Parameters carry timm's names.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ViTConfig

POSITION_STD = 0.02
LAYER_SCALE_INIT = 1e-5
QUICK_GELU = 1.702


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
        return x.flatten(2).transpose(1, 2)  # [B, patches, D]


class MultiHeadSelfAttention(nn.Module):
    """Softmax(Q K^T / sqrt(D / H)) V for each head, then a projection (appendix A, equations 5 to
    8).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.q_norm, self.k_norm = (_head_norm(config) for _ in range(2))
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(*self.project(x))
        return self.proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each `[B, H, N, D / H]`."""
        batch, tokens, dim = x.shape
        heads = (batch, tokens, self.n_heads, dim // self.n_heads)
        q, k, v = (t.reshape(heads).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        return self.q_norm(q), self.k_norm(k), v


def _head_norm(config: ViTConfig) -> nn.Module:
    if not config.block.qk_norm:
        return nn.Identity()
    return nn.LayerNorm(config.embed_dim // config.n_heads, eps=config.block.norm_eps)


class MLP(nn.Module):
    """Two Linears with a GELU between them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.act = ACTIVATIONS[config.block.mlp]()
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): CLIP's approximation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(QUICK_GELU * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class SwiGLU(nn.Module):
    """fc2(silu(gate) * up), with gate and up from one Linear: its first half and its second."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, 2 * config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * up)  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned gain for each channel."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((config.embed_dim,), LAYER_SCALE_INIT))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm and inside a residual connection (equations 2 and
    3).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        options = config.block
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=options.norm_eps)
        self.attn = MultiHeadSelfAttention(config)
        self.ls1 = LayerScale(config) if options.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=options.norm_eps)
        self.mlp = SwiGLU(config) if options.mlp == "swiglu" else MLP(config)
        self.ls2 = LayerScale(config) if options.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Representation(nn.Module):
    """A Linear between pool and head: the paper's pre-training head with its tanh, or CLIP's
    projection.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.pooled_dim, config.readout.representation_size)
        self.act = nn.Tanh() if config.readout.representation == "tanh" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Classifies images: float32 `[B, in_channels, height, width]`, normalised -> logits `[B,
    num_classes]`, or features where there is no head.

    The constructor takes the paper's sizes; `from_config` takes the options of its relatives too.

    Args:
        img_size: Height and width of the images in pixels, or both as a pair.
        patch_size: Height and width of a patch in pixels; divides `img_size`.
        in_channels: Colour channels.
        num_classes: Length of the logits; 0 for features.
        embed_dim: D, the width of the tokens.
        depth: Number of transformer blocks.
        n_heads: Attention heads; divides `embed_dim`.
        mlp_ratio: Width of the MLP's hidden layer relative to `embed_dim`.
        qkv_bias: True if the Q, K and V projections have a bias.

    Raises:
        ValueError: if the sizes do not fit each other.
    """

    pos_embed: nn.Parameter

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
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
        sizes = (img_size, patch_size, in_channels, num_classes, embed_dim, depth, n_heads)
        self._build(ViTConfig(*sizes, mlp_ratio, qkv_bias))

    @classmethod
    def from_config(cls, config: ViTConfig) -> VisionTransformer:
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._build(config)
        return model

    def _build(self, config: ViTConfig) -> None:
        self.config = config
        dim, options, eps = config.embed_dim, config.embedding, config.block.norm_eps
        self.patch_embed = PatchEmbedding(config)
        self.cls_token = _token(options.class_token, dim)
        self.dist_token = _token(options.distillation_token, dim)
        self.reg_token = _token(options.registers, dim)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, int(options.class_token) + config.num_patches, dim)
        )
        self.norm_pre = nn.LayerNorm(dim, eps=eps) if options.norm else nn.Identity()
        self.blocks = nn.Sequential(*(TransformerBlock(config) for _ in range(config.depth)))
        norm_last = config.readout.pool == "mean_then_norm"
        self.norm = nn.Identity() if norm_last else nn.LayerNorm(dim, eps=eps)
        self.fc_norm = nn.LayerNorm(dim, eps=eps) if norm_last else nn.Identity()
        has_representation = config.readout.representation_size > 0
        self.pre_logits = Representation(config) if has_representation else nn.Identity()
        self.head = (
            nn.Linear(config.feature_dim, config.num_classes)
            if config.num_classes
            else nn.Identity()
        )
        self._initialise()

    def _initialise(self) -> None:
        """Draws weights like the original JAX code: Xavier uniform weights, zero biases, small
        position embeddings.
        """
        for parameter in (self.pos_embed, self.cls_token, self.dist_token, self.reg_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=POSITION_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Returns the head's input, float32 `[B, feature_dim]`."""
        x = self.norm_pre(self.embed(images))
        x = self.norm(self.blocks(x))
        return self.pre_logits(self.fc_norm(self.pool(x)))  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> Tensor:
        """Returns patches with their positions, behind the tokens that join them: `[B, N, D]`."""
        x: Tensor = self.patch_embed(images)
        batch = x.shape[0]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(batch, -1, -1), x], dim=1)
        x = x + self.pos_embed
        joining = [
            t.expand(batch, -1, -1) for t in (self.dist_token, self.reg_token) if t is not None
        ]
        if not joining:
            return x
        first = int(self.cls_token is not None)
        return torch.cat([x[:, :first], *joining, x[:, first:]], dim=1)

    def pool(self, x: Tensor) -> Tensor:
        """Reduces tokens `[B, N, D]` to `[B, pooled_dim]`."""
        pool, patches = self.config.readout.pool, x[:, self.config.embedding.prefix_tokens :]
        if pool == "class_token":
            return x[:, 0]
        if pool == "class_token_and_mean":
            return torch.cat([x[:, 0], patches.mean(dim=1)], dim=-1)
        if pool == "class_and_distillation":
            return x[:, :2].flatten(1)
        return patches.mean(dim=1)


def _token(count: int, dim: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, int(count), dim)) if count else None
