"""Difference of logits from those of the implementation that a checkpoint comes from.

    python -m benchmarks.parity

Every size of the paper, whole, and its relatives, with random weights moved off their starting
values: written by the source in its own format, read here without any option, run in fp32 on one
image of noise. Prints a table and writes `benchmarks/results/parity.json`. Takes some minutes and
8 GiB.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests import oracles
from tests.vit.checkpoints.parity import SIZES, load, save, shake, to_jax

OUT = Path("benchmarks/results/parity.json")
LIBRARIES = ("timm", "torchvision", "transformers", "torch")

Case = tuple[str, str, Callable[[Path], float]]


def difference(path: Path, oracle: Callable[[torch.Tensor], torch.Tensor], side: int) -> float:
    torch.manual_seed(2)
    image = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        expected, got = oracle(image), load(path)(image)
    return float((got - expected).abs().max() / expected.abs().max())


def from_timm(name: str, folder: Path) -> float:
    oracle = shake(oracles.timm().create_model(name))
    return difference(
        save(oracle, folder / "timm.safetensors"), oracle, oracle.patch_embed.img_size[0]
    )


def from_torchvision(name: str, folder: Path) -> float:
    oracle = shake(getattr(oracles.torchvision().models, name)())
    return difference(save(oracle, folder / "torchvision.pth"), oracle, oracle.image_size)


def from_transformers(
    model: str, config: str, output: str, options: dict[str, Any], folder: Path
) -> float:
    hub = oracles.transformers()
    oracle = shake(getattr(hub, model)(getattr(hub, config)(**options)))
    oracle.save_pretrained(folder)
    return difference(folder, lambda x: oracle(x)[output], oracle.config.image_size)


def from_jax(size: str, folder: Path) -> float:
    width, heads, patch, depth = SIZES[size]
    oracle = oracles.timm().models.VisionTransformer(
        embed_dim=width,
        num_heads=heads,
        patch_size=patch,
        depth=depth,
        act_layer=partial(nn.GELU, approximate="tanh"),
    )
    np.savez(folder / "jax.npz", **to_jax(shake(oracle).state_dict(), heads))
    shake(oracle)
    oracle.load_pretrained(str(folder / "jax.npz"))
    return difference(folder / "jax.npz", oracle, 224)


def cases() -> Iterator[Case]:
    for name in (
        "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224",
        "vit_base_patch32_224", "vit_large_patch16_224", "vit_huge_patch14_224",
        "deit_base_patch16_224", "deit_base_distilled_patch16_224", "vit_small_patch14_dinov2",
        "vit_base_patch14_reg4_dinov2", "vit_base_patch32_clip_224",
    ):  # fmt: skip
        yield "timm", name, partial(from_timm, name)
    for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_h_14"):
        yield "torchvision", name, partial(from_torchvision, name)
    for size, (width, heads, patch, depth) in SIZES.items():
        options = {
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "patch_size": patch,
            "num_labels": 1000,
        }
        classifier = ("ViTForImageClassification", "ViTConfig", "logits")
        yield "transformers", f"ViT {size}", partial(from_transformers, *classifier, options)
    for model, config, output in (
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig", "logits"),
        ("Dinov2ForImageClassification", "Dinov2Config", "logits"),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "pooler_output"),
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image_embeds"),
    ):
        yield "transformers", model, partial(from_transformers, model, config, output, {})
    for size in SIZES:
        yield "JAX .npz (read by timm)", f"ViT {size}", partial(from_jax, size)


def main() -> None:
    rows = []
    print("| source | model | largest difference / largest output |\n| --- | --- | --- |")
    for source, model, measure in cases():
        with tempfile.TemporaryDirectory() as folder:
            worst = measure(Path(folder))
        rows.append({"source": source, "model": model, "difference": worst})
        print(f"| {source} | {model} | {worst:.1e} |", flush=True)
    versions = {name: version(name) for name in LIBRARIES}
    result = {"machine": platform.machine(), "versions": versions, "rows": rows}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
