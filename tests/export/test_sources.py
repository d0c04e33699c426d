"""A file or folder of every source goes into an export with no other option than data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest, Plan, make_plan
from vit_edge.export.progress import Display
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.manifest import FEATURES
from vit_edge.vit.hints import CLIP, HALF, IMAGENET, ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

from .. import oracles
from ..effort import ONE_CALL
from ..vit.checkpoints.parity import to_jax


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random weights are the same in whatever order and process the tests run."""
    torch.manual_seed(0)


def plan(weights: Path, **options: object) -> Plan:
    request = {"calibration": "samples", "out": weights.parent / "out", **options}
    return make_plan(ExportRequest(weights=str(weights), **request))  # type: ignore[arg-type]


def timm_file(folder: Path) -> Path:
    state = oracles.timm().create_model("vit_tiny_patch16_224").state_dict()
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "timm.safetensors")
    return folder / "timm.safetensors"


def deit_file(folder: Path) -> Path:
    state = oracles.timm().create_model("deit_tiny_distilled_patch16_224").state_dict()
    torch.save({"model": state}, folder / "deit.pth")
    return folder / "deit.pth"


def torchvision_file(folder: Path) -> Path:
    torch.save(oracles.torchvision().models.vit_b_32().state_dict(), folder / "torchvision.pth")
    return folder / "torchvision.pth"


def jax_file(folder: Path) -> Path:
    state = oracles.timm().create_model("vit_tiny_patch16_224").state_dict()
    np.savez(folder / "jax.npz", **to_jax(state, 3))
    return folder / "jax.npz"


def vit_folder(folder: Path) -> Path:
    hub, sizes = oracles.transformers(), {"hidden_size": 48, "num_attention_heads": 3}
    names = {index: f"class {index}" for index in range(5)}
    config = hub.ViTConfig(**sizes, num_hidden_layers=2, intermediate_size=96, id2label=names)
    hub.ViTForImageClassification(config).save_pretrained(folder / "vit")
    hub.ViTImageProcessor().save_pretrained(folder / "vit")
    return folder / "vit"


def clip_folder(folder: Path) -> Path:
    hub = oracles.transformers()
    config = hub.CLIPVisionConfig(
        hidden_size=48, num_attention_heads=3, num_hidden_layers=2, intermediate_size=96,
        projection_dim=24, image_size=64,
    )  # fmt: skip
    hub.CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
    return folder / "clip"


@pytest.mark.parametrize(
    ("make", "heads", "outputs", "normalisation", "pictures"),
    [
        (timm_file, 3, 1000, HALF, (0.9, "bicubic", "center")),
        (deit_file, 3, 1000, IMAGENET, (0.9, "bicubic", "center")),
        (torchvision_file, 12, 1000, IMAGENET, (0.875, "bilinear", "center")),
        (jax_file, 3, 1000, HALF, (1.0, "bilinear", "squash")),
        (vit_folder, 3, 5, HALF, (1.0, "bilinear", "squash")),
        (clip_folder, 3, 24, CLIP, (1.0, "bicubic", "center_floor")),
    ],
)
def test_nothing_but_data_is_needed(
    make: Callable[[Path], Path],
    heads: int,
    outputs: int,
    normalisation: tuple[tuple[float, ...], ...],
    pictures: tuple[object, ...],
    tmp_path: Path,
) -> None:
    found = plan(make(tmp_path)).source
    p = found.preprocess
    assert (p.mean, p.std) == normalisation
    assert (p.crop, p.interpolation, p.crop_mode) == pictures
    assert (found.config.n_heads, found.config.outputs) == (heads, outputs)


def test_classifier_brings_its_labels_into_the_bundle(tmp_path: Path) -> None:
    weights, out = vit_folder(tmp_path), tmp_path / "out"
    request = ExportRequest(
        timing=ONE_CALL,
        weights=str(weights),
        out=out,
        precisions=("fp32",),
        targets=("onnxruntime",),
        max_batch=4,
    )
    assert export_bundle(request, Display()).good
    manifest = Bundle.open(out).manifest
    assert manifest.labels == tuple(f"class {index}" for index in range(5))
    assert manifest.provenance["assumed"] == "-"
    assert "Hugging Face checkpoint: width 48, depth 2" in manifest.provenance["inferred"]


@pytest.mark.slow
def test_embedding_model_is_exported_checked_and_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vit_edge.runtime.tools.cli import main

    weights, out = clip_folder(tmp_path), tmp_path / "out"
    request = ExportRequest(
        timing=ONE_CALL, weights=str(weights), out=out, targets=("onnxruntime",), max_batch=4
    )
    assert export_bundle(request, Display()).good
    accuracy = Bundle.open(out).manifest.precisions["int8"].graphs["cpu"].accuracy[FEATURES]
    assert accuracy.rms_error < 0.06
    assert accuracy.cosine > 0.99
    with Engine.load(out) as engine:
        assert engine.output == FEATURES
        assert engine(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 24)
    assert main(["check", str(out)]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_another_image_size_makes_engines_of_that_size(
    model: VisionTransformer, tmp_path: Path
) -> None:
    weights, out = tmp_path / "timm.pth", tmp_path / "out"
    torch.save(model.state_dict(), weights)
    request = ExportRequest(
        timing=ONE_CALL,
        weights=str(weights),
        facts=ModelHints(img_size=(48, 64)),
        outputs={FEATURES: None},
        out=out,
        precisions=("fp32",),
        targets=("onnxruntime",),
        max_batch=4,
    )
    assert export_bundle(request, Display()).good
    manifest = Bundle.open(out).manifest
    assert manifest.spec.image_shape == (48, 64, 3)
    assert (manifest.spec.output_names, manifest.spec.width) == ((FEATURES,), 64)


def test_labels_are_the_users(model: VisionTransformer, tmp_path: Path) -> None:
    weights, names = tmp_path / "timm.pth", tuple("abcdefghij")
    torch.save(model.state_dict(), weights)
    assert plan(weights, facts=ModelHints(labels=names)).data.class_names == names
