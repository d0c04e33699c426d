"""Logits and features equal those of the implementation that a checkpoint comes from.

The oracles run in fp32 with random weights. Widths and heads are the real ones, depth is cut to 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vit.checkpoints import build_model, find_architecture, read_checkpoint
from vit.facts import Facts
from vit.vision_transformer import VisionTransformer

from ... import oracles

TOLERANCE = 1e-5
DEPTH = 2
# Width, heads and patch size.
SIZES = {
    "Ti/16": (192, 3, 16),
    "S/16": (384, 6, 16),
    "B/16": (768, 12, 16),
    "B/32": (768, 12, 32),
    "L/16": (1024, 16, 16),
    "H/14": (1280, 16, 14),
}


def shake(oracle: nn.Module) -> nn.Module:
    """Moves every parameter, so that a lost bias, LayerNorm or gain shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return oracle.eval()


def load(path: Path, **given: Any) -> VisionTransformer:
    checkpoint = read_checkpoint(path)
    found = find_architecture(checkpoint, Facts(**given))
    weights = (checkpoint.tensors, checkpoint.source, found.native, found.facts.antialias)
    return build_model(found.config, *weights)


def difference(
    model: VisionTransformer, oracle: Callable[[torch.Tensor], torch.Tensor], *size: int
) -> float:
    """Largest difference relative to the largest output."""
    torch.manual_seed(2)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        got, expected = model(images), oracle(images)
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def save(oracle: nn.Module, path: Path) -> Path:
    state = {name: value.contiguous() for name, value in oracle.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return path


class TestTimm:
    @pytest.mark.parametrize("size", SIZES)
    def test_plain(self, size: str, tmp_path: Path) -> None:
        width, heads, patch = SIZES[size]
        oracle = shake(
            oracles.timm().models.VisionTransformer(
                embed_dim=width, num_heads=heads, patch_size=patch, depth=DEPTH, num_classes=10
            )
        )
        model = load(save(oracle, tmp_path / "timm.safetensors"), n_heads=heads)
        assert difference(model, oracle, 224, 224) < TOLERANCE

    @pytest.mark.parametrize(
        ("name", "options", "given"),
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
        self, name: str, options: dict[str, Any], given: dict[str, Any], tmp_path: Path
    ) -> None:
        options = {"depth": DEPTH, "embed_dim": 192, "num_heads": 3, **options}
        oracle = shake(oracles.timm().create_model(name, **options))
        path = save(oracle, tmp_path / "timm.pth")
        model = load(path, **{"n_heads": oracle.blocks[0].attn.num_heads, **given})
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


@pytest.mark.parametrize("size", ["B/16", "B/32", "L/16"])
def test_torchvision(size: str, tmp_path: Path) -> None:
    width, heads, patch = SIZES[size]
    transformer = oracles.torchvision().models.VisionTransformer
    oracle = shake(transformer(224, patch, DEPTH, heads, width, 4 * width, num_classes=10))
    model = load(save(oracle, tmp_path / "torchvision.pth"), n_heads=heads)
    assert difference(model, oracle, 224, 224) < TOLERANCE


class TestHuggingFace:
    """Folders say all that there is to know: nothing is given."""

    @pytest.mark.parametrize("size", SIZES)
    def test_vit(self, size: str, tmp_path: Path) -> None:
        width, heads, patch = SIZES[size]
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


def to_jax(state: dict[str, torch.Tensor], heads: int) -> dict[str, np.ndarray]:
    """timm's tensors under the original JAX code's names and in its layout."""
    arrays, width = {}, state["cls_token"].shape[-1]
    names = {
        "patch_embed.proj": "embedding",
        "norm": "Transformer/encoder_norm",
        "norm1": "LayerNorm_0",
        "norm2": "LayerNorm_2",
        "attn.proj": "MultiHeadDotProductAttention_1/out",
        "mlp.fc1": "MlpBlock_3/Dense_0",
        "mlp.fc2": "MlpBlock_3/Dense_1",
        "head": "head",
        "pre_logits.fc": "pre_logits",
    }
    for name, tensor in state.items():
        array, (layer, _, kind) = tensor.numpy(), name.rpartition(".")
        block = ""
        if layer.startswith("blocks."):
            _, index, layer = layer.split(".", 2)
            block = f"Transformer/encoderblock_{index}/"
        if layer == "attn.qkv":
            shape = (width, heads, width // heads) if kind == "weight" else (heads, width // heads)
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                target = "kernel" if kind == "weight" else "bias"
                key = f"{block}MultiHeadDotProductAttention_1/{part}/{target}"
                arrays[key] = piece.T.reshape(shape)
        elif name == "cls_token":
            arrays["cls"] = array
        elif name == "pos_embed":
            arrays["Transformer/posembed_input/pos_embedding"] = array
        elif "norm" in layer:
            arrays[f"{block}{names[layer]}/{'scale' if kind == 'weight' else kind}"] = array
        elif kind == "bias":
            arrays[f"{block}{names[layer]}/bias"] = array
        else:
            kernel = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            if layer == "attn.proj":
                kernel = kernel.reshape(heads, width // heads, width)
            arrays[f"{block}{names[layer]}/kernel"] = kernel
    return arrays


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@pytest.mark.parametrize("size", SIZES)
def test_jax(size: str, prefix: str, tmp_path: Path) -> None:
    """timm reads the same `.npz`. Its GELU is the original's here, by tanh."""
    width, heads, patch = SIZES[size]
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
