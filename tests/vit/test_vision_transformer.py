from __future__ import annotations

import inspect

import pytest
import torch

from vision_transformer import VisionTransformer
from vit_edge.vit.config import ViTConfig, config_from_fields
from vit_edge.vit.variants import VARIANTS
from vit_edge.vit.vision_transformer import MultiHeadSelfAttention

ORIGINAL_ARGUMENTS = [
    "img_size",
    "patch_size",
    "in_channels",
    "num_classes",
    "embed_dim",
    "depth",
    "n_heads",
    "mlp_ratio",
    "qkv_bias",
]


def small(**changes: object) -> VisionTransformer:
    sizes = {"img_size": 16, "patch_size": 8, "num_classes": 5, "embed_dim": 32, "depth": 2}
    return VisionTransformer(**{**sizes, "n_heads": 4, **changes})  # type: ignore[arg-type]


def test_constructor_has_exactly_the_arguments_of_the_original_example() -> None:
    assert list(inspect.signature(VisionTransformer).parameters) == ORIGINAL_ARGUMENTS


def test_logits_have_one_row_per_image() -> None:
    assert small(in_channels=1)(torch.zeros(3, 1, 16, 16)).shape == (3, 5)


def test_qkv_bias_can_be_left_out() -> None:
    assert small(qkv_bias=False).blocks[0].attn.qkv.bias is None


def test_attention_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    attention = MultiHeadSelfAttention(
        ViTConfig(img_size=16, patch_size=8, embed_dim=32, n_heads=4)
    )
    x = torch.randn(2, 5, 32)
    q, k, v = attention.qkv(x).reshape(2, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 32))
    torch.testing.assert_close(attention(x), expected)


def test_order_of_patches_matters() -> None:
    torch.manual_seed(0)
    model, image = small().eval(), torch.randn(1, 3, 16, 16)
    swapped = image.flip(-1)
    assert not torch.allclose(model(image), model(swapped))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patch_size": 5}, "patch_size 5"),
        ({"n_heads": 5}, "n_heads 5"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 1.5}, "depth is 1.5"),
        ({"depth": True}, "depth is True"),
        ({"embed_dim": 10**9}, "embed_dim is 1000000000"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({"qkv_bias": 1}, "qkv_bias is 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small(**changes)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Table 1 of the paper (B, L, H) and of DeiT (Ti, S), with the head's 1,000 classes.
    [
        ("vit_tiny_patch16_224", 5.7),
        ("vit_small_patch16_224", 22.1),
        ("vit_base_patch16_224", 86.6),
        ("vit_large_patch16_224", 304.3),
        ("vit_huge_patch14_224", 632.0),
    ],
)
def test_variants_have_the_papers_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = VisionTransformer.from_config(VARIANTS[name].config)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": {"class_token": False}}, "pool 'class_token' needs a class token"),
        ({"readout": {"pool": "class_and_distillation"}}, "needs a distillation token"),
        ({"readout": {"pool": "max"}}, "pool is 'max', it must be one of class_token, mean"),
        ({"readout": {"representation_size": -1}}, "representation_size is -1"),
        ({"block": {"norm_eps": float("inf")}}, "norm_eps is inf"),
        ({"block": {"layer_scale": 1}}, "layer_scale is 1, not of type bool"),
        ({"block": {"nrom_eps": 1e-6}}, "unknown field 'nrom_eps'"),
        ({"img_size": [224, 224, 3]}, "not a number or"),
        ({"img_size": [224, "224"]}, "img_size's width is '224'"),
    ],
)
def test_options_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_fields(ViTConfig(), changes)
