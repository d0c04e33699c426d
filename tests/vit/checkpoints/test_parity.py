"""Logits and features equal those of the implementation that a checkpoint comes from.

The oracles run in fp32 with random weights. Widths and heads are the real ones, depth is cut to 2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vit_edge.vit.checkpoints import read_checkpoint

from ... import oracles
from .parity import SIZES, difference, load, save, shake, to_big_vision, to_jax

TOLERANCE = 1e-5
DEPTH = 2


class TestTimm:
    @pytest.mark.parametrize("size", SIZES)
    def test_plain(self, size: str, tmp_path: Path) -> None:
        width, heads, patch, _ = SIZES[size]
        oracle = shake(
            oracles.timm().models.VisionTransformer(
                embed_dim=width, num_heads=heads, patch_size=patch, depth=DEPTH, num_classes=10
            )
        )
        model = load(save(oracle, tmp_path / "timm.safetensors"), n_heads=heads)
        assert difference(model, oracle, 224, 224) < TOLERANCE

    @pytest.mark.parametrize(
        ("name", "options", "hints"),
        [
            ("deit_tiny_distilled_patch16_224", {}, {}),
            ("vit_small_patch14_dinov2", {"img_size": 98}, {}),
            ("vit_small_patch14_reg4_dinov2", {"img_size": 98}, {}),
            ("vit_giant_patch14_dinov2", {"img_size": 56, "embed_dim": 96, "num_heads": 3}, {}),
            ("vit_base_patch32_clip_224", {"num_classes": 0}, {}),
            ("vit_base_patch32_clip_quickgelu_224", {}, {"mlp": "quick_gelu"}),
            ("vit_medium_patch16_reg4_gap_256", {}, {}),
            ("vit_base_patch16_224", {"qk_norm": True}, {}),
            ("vit_base_patch16_224", {"global_pool": "avg"}, {}),
            ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False}, {"pool": "mean"}),
            ("vit_base_patch16_224", {"qkv_bias": False}, {}),
            ("vit_base_patch16_224", {"img_size": (224, 160)}, {"img_size": (224, 160)}),
        ],
    )
    def test_relatives(
        self, name: str, options: dict[str, Any], hints: dict[str, Any], tmp_path: Path
    ) -> None:
        options = {"depth": DEPTH, "embed_dim": 192, "num_heads": 3, **options}
        oracle = shake(oracles.timm().create_model(name, **options))
        path = save(oracle, tmp_path / "timm.pth")
        model = load(path, **{"n_heads": oracle.blocks[0].attn.num_heads, **hints})
        assert difference(model, oracle, *oracle.patch_embed.img_size) < TOLERANCE

    @pytest.mark.parametrize("size", [(224, 224), (64, 64), (160, 96)])
    def test_another_image_size(self, size: tuple[int, int], tmp_path: Path) -> None:
        timm = oracles.timm()
        build = partial(timm.create_model, "vit_tiny_patch16_224", depth=DEPTH, num_classes=10)
        oracle = shake(build(img_size=128))
        path = save(oracle, tmp_path / "timm.safetensors")
        resized = build(img_size=size).eval()
        state = timm.models.vision_transformer.checkpoint_filter_fn(oracle.state_dict(), resized)
        resized.load_state_dict(state)
        assert difference(load(path, n_heads=3, img_size=size), resized, *size) < TOLERANCE


@pytest.mark.parametrize("size", ["B/16", "B/32", pytest.param("L/16", marks=pytest.mark.slow)])
def test_torchvision(size: str, tmp_path: Path) -> None:
    width, heads, patch, _ = SIZES[size]
    transformer = oracles.torchvision().models.VisionTransformer
    oracle = shake(transformer(224, patch, DEPTH, heads, width, 4 * width, num_classes=10))
    model = load(save(oracle, tmp_path / "torchvision.pth"), n_heads=heads)
    assert difference(model, oracle, 224, 224) < TOLERANCE


class TestHuggingFace:
    """Folders of transformers, which need no hints from the user."""

    @pytest.mark.parametrize("size", SIZES)
    def test_vit(self, size: str, tmp_path: Path) -> None:
        width, heads, patch, _ = SIZES[size]
        hub = oracles.transformers()
        config = hub.ViTConfig(**self.sizes(width, heads, patch))
        oracle = shake(hub.ViTForImageClassification(config))
        oracle.save_pretrained(tmp_path)
        assert difference(load(tmp_path), lambda x: oracle(x).logits, 224, 224) < TOLERANCE

    @pytest.mark.parametrize(
        ("model", "config", "options"),
        [
            ("ViTForImageClassification", "ViTConfig", {"hidden_act": "gelu_new"}),
            ("ViTForImageClassification", "ViTConfig", {"qkv_bias": False, "image_size": 112}),
            ("DeiTForImageClassification", "DeiTConfig", {}),
            ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {}),
            ("Dinov2ForImageClassification", "Dinov2Config", {}),
            ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", {}),
            ("Dinov2ForImageClassification", "Dinov2Config", {"use_swiglu_ffn": True}),
        ],
    )
    def test_classifiers(
        self, model: str, config: str, options: dict[str, Any], tmp_path: Path
    ) -> None:
        hub = oracles.transformers()
        sizes = {**self.sizes(192, 3, 16), **options}
        oracle = shake(getattr(hub, model)(getattr(hub, config)(**sizes)))
        oracle.save_pretrained(tmp_path)
        side = sizes["image_size"]
        assert difference(load(tmp_path), lambda x: oracle(x).logits, side, side) < TOLERANCE

    @pytest.mark.parametrize(
        ("model", "config", "output"),
        [
            ("Dinov2Model", "Dinov2Config", "pooler_output"),
            ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "pooler_output"),
            ("CLIPVisionModel", "CLIPVisionConfig", "pooler_output"),
            ("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image_embeds"),
        ],
    )
    def test_features(self, model: str, config: str, output: str, tmp_path: Path) -> None:
        hub = oracles.transformers()
        sizes = self.sizes(192, 3, 16)
        oracle = shake(getattr(hub, model)(getattr(hub, config)(**sizes)))
        oracle.save_pretrained(tmp_path)
        assert difference(load(tmp_path), lambda x: oracle(x)[output], 224, 224) < TOLERANCE

    def test_the_processors_crop_is_the_size_and_positions_follow(self, tmp_path: Path) -> None:
        hub = oracles.transformers()
        config = hub.Dinov2Config(**{**self.sizes(192, 3, 14), "image_size": 518})
        oracle = shake(hub.Dinov2ForImageClassification(config))
        oracle.save_pretrained(tmp_path)
        hub.BitImageProcessor(
            size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
        ).save_pretrained(tmp_path)
        model = load(tmp_path)
        assert model.config.image_size == (224, 224)
        assert difference(model, lambda x: oracle(x).logits, 224, 224) < TOLERANCE

    def test_shards(self, tmp_path: Path) -> None:
        hub = oracles.transformers()
        oracle = shake(hub.ViTForImageClassification(hub.ViTConfig(**self.sizes(192, 3, 16))))
        oracle.save_pretrained(tmp_path, max_shard_size="2MB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert difference(load(tmp_path), lambda x: oracle(x).logits, 224, 224) < TOLERANCE

    @staticmethod
    def sizes(width: int, heads: int, patch: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "num_hidden_layers": DEPTH,
            "patch_size": patch,
            "image_size": 224,
            "num_labels": 10,
        }


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@pytest.mark.parametrize("size", SIZES)
def test_jax(size: str, prefix: str, tmp_path: Path) -> None:
    """Compares with timm, which reads the same `.npz`; its GELU is the original's here, by tanh."""
    width, heads, patch, _ = SIZES[size]
    timm = oracles.timm()
    options = {"embed_dim": width, "num_heads": heads, "patch_size": patch, "depth": DEPTH}
    oracle = timm.models.VisionTransformer(
        **options, num_classes=10, act_layer=partial(nn.GELU, approximate="tanh")
    )
    path = tmp_path / "jax.npz"
    arrays = to_jax(shake(oracle).state_dict(), heads)
    np.savez(path, **{prefix + name: array for name, array in arrays.items()})
    shake(oracle)
    oracle.load_pretrained(str(path))
    assert difference(load(path), oracle, 224, 224) < TOLERANCE


def test_big_vision(tmp_path: Path) -> None:
    """Compares with timm, which reads big_vision's `.npz` too."""
    timm = oracles.timm()
    options = {"embed_dim": 192, "num_heads": 3, "patch_size": 16, "depth": DEPTH}
    oracle = timm.models.VisionTransformer(
        **options, num_classes=10, act_layer=partial(nn.GELU, approximate="tanh")
    )
    path = tmp_path / "big_vision.npz"
    np.savez(path, **to_big_vision(to_jax(shake(oracle).state_dict(), 3)))
    shake(oracle)
    oracle.load_pretrained(str(path))
    assert difference(load(path), oracle, 224, 224) < TOLERANCE


def openai_state(width: int, patch: int, features: int) -> dict[str, torch.Tensor]:
    """Random weights under the names of OpenAI's CLIP: the image tower, and a text tower's."""
    torch.manual_seed(1)
    names = {
        "class_embedding": (width,),
        "positional_embedding": ((224 // patch) ** 2 + 1, width),
        "proj": (width, features),
        "conv1.weight": (width, 3, patch, patch),
    }
    names |= {f"ln_{n}.{k}": (width,) for n in ("pre", "post") for k in ("weight", "bias")}
    for block in (f"transformer.resblocks.{i}." for i in range(DEPTH)):
        for name, shape in {
            "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width),
            "mlp.c_fc.": (4 * width, width),
            "mlp.c_proj.": (width, 4 * width),
        }.items():
            names |= {f"{block}{name}weight": shape, f"{block}{name}bias": shape[:1]}
        names |= {f"{block}ln_{n}.{k}": (width,) for n in "12" for k in ("weight", "bias")}
    state = {f"visual.{name}": 0.05 * torch.randn(shape) for name, shape in names.items()}
    text = "transformer.resblocks.0.attn.in_proj_weight"
    rest = {text: torch.ones(9, 3), "logit_scale": torch.ones(()), "ln_final.bias": torch.ones(3)}
    return {**state, **rest}


@pytest.mark.parametrize("kind", ["openai", "half", "open_clip", "wrapped"])
def test_openai_and_open_clip(kind: str, tmp_path: Path) -> None:
    """Compares with timm, which reads the same names. OpenAI's GELU is by sigmoid."""
    timm, state = oracles.timm(), openai_state(192, 32, 64)
    exact = kind in ("open_clip", "wrapped")
    oracle = timm.create_model(
        f"vit_base_patch32_clip{'' if exact else '_quickgelu'}_224",
        embed_dim=192, num_heads=3, depth=DEPTH, num_classes=64,
    ).eval()  # fmt: skip
    if kind == "half":
        state = {name: tensor.half() for name, tensor in state.items()}
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), oracle)
    oracle.load_state_dict({name: tensor.float() for name, tensor in filtered.items()})
    path = tmp_path / "clip.pt"
    if kind == "openai":
        state["input_resolution"] = torch.tensor(224)
    if kind == "wrapped":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "epoch": 1} if kind == "wrapped" else state, path)
    assert difference(load(path, n_heads=3), oracle, 224, 224) < TOLERANCE
    assert "ln_final" in " ".join(read_checkpoint(path).notes)
