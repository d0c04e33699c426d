"""Folders of transformers and timm, and the hub's cache, without any network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vit_edge.runtime.errors import InputError
from vit_edge.vit.checkpoints import find_architecture, locate, read_checkpoint
from vit_edge.vit.hints import IMAGENET, ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

from ... import oracles

VIT = {"model_type": "vit", "num_attention_heads": 2, "image_size": 32}
SQUASHED = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that transformers writes for a tiny ViT."""
    hub = oracles.transformers()
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = hub.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    hub.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    write_json(tmp_path / "vit" / "preprocessor_config.json", SQUASHED)
    return tmp_path / "vit"


def test_a_folder_says_all_and_nothing_is_assumed(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    architecture = find_architecture(checkpoint, ModelHints())
    assert architecture.assumed == ()
    assert architecture.config.block.norm_eps == 1e-12
    assert architecture.hints.labels == ("cat", "dog", "owl")
    assert (architecture.hints.crop_mode, architecture.hints.interpolation) == (
        "squash",
        "bilinear",
    )


def test_the_processor_that_transformers_writes_is_understood(folder: Path) -> None:
    oracles.transformers().ViTImageProcessor(size={"height": 48, "width": 32}).save_pretrained(
        folder
    )
    hints = read_checkpoint(folder).hints
    assert (hints.img_size, hints.crop_mode, hints.crop) == ((48, 32), "squash", 1.0)
    assert hints.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
         {"img_size": (224, 224), "crop": 0.875, "crop_mode": "center_floor"}),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224},
          "do_center_crop": True},
         {"img_size": (224, 224), "crop": 0.875, "crop_mode": "squash"}),
        ({"size": 384}, {"img_size": (384, 384), "crop": 1.0, "crop_mode": "squash"}),
        ({"size": {"shortest_edge": 64}}, {"img_size": (64, 64), "crop_mode": "center_floor"}),
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
    ],
)  # fmt: skip
def test_processors(folder: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    write_json(folder / "preprocessor_config.json", {**SQUASHED, **changes})
    hints = read_checkpoint(folder).hints
    assert {name: getattr(hints, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("config.json", "{", r"config\.json is not readable JSON"),
        ("config.json", "[]", r"config\.json is not a JSON object"),
        ("config.json", "[" * 100_000, r"config\.json is not readable JSON"),
        ("config.json", '{"model_type": "swin"}', "model type 'swin', which is no plain ViT"),
        ("config.json", '{"model_type": "vit", "hidden_act": "relu"}', "activation 'relu'"),
        ("config.json", '{"model_type": "vit", "num_attention_heads": "2"}', "'2', not a whole"),
        ("config.json", '{"model_type": "vit", "num_attention_heads": 3}', "embed_dim 32 is not"),
        ("preprocessor_config.json", '{"rescale_factor": 1}', "rescale_factor 1 is not 1/255"),
        ("preprocessor_config.json", '{"resample": 9}', "resample '9'"),
        ("preprocessor_config.json", '{"size": {"longest": 3}, "resample": 2}', "'height'"),
        ("preprocessor_config.json", '{"size": Infinity}', "preprocessor_config"),
        ("preprocessor_config.json", '{"do_resize": false}', "do_resize is false"),
        ("preprocessor_config.json", '{"do_center_crop": true}', "without a crop_size"),
        ("preprocessor_config.json", '{"do_pad": true}', "do_pad is no step"),
        ("config.json", '{"model_type": "vit", "layer_norm_eps": null}', "cannot be used"),
        ("config.json", '{"model_type": "vit", "layer_norm_eps": [1]}', "cannot be used"),
        ("model.safetensors", None, r"none of model\.safetensors"),
        ("model.safetensors", "", "not a whole safetensors file"),
    ],
)
def test_damage_is_named(folder: Path, file: str, content: str | None, named: str) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=named):
        find_architecture(read_checkpoint(folder), ModelHints())


def test_shards_outside_the_folder_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    for name in ("../outside.safetensors", str(folder.parent / "outside.safetensors"), "none"):
        write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": name}})
        with pytest.raises(InputError, match="not beside it"):
            read_checkpoint(folder)


def timm_repository(folder: Path, model: VisionTransformer, **changes: object) -> Path:
    folder.mkdir(parents=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    pretrained = {
        "input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.8,
        "crop_mode": "squash", "mean": IMAGENET[0], "std": IMAGENET[1],
    }  # fmt: skip
    config = {"architecture": "vit_test_patch8_32", "num_classes": 10, "pretrained_cfg": pretrained}
    write_json(folder / "config.json", {**config, **changes})
    return folder


def test_timms_config_brings_preprocessing_and_heads(
    model: VisionTransformer, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(timm_repository(tmp_path / "repository", model))
    architecture = find_architecture(checkpoint, ModelHints())
    assert architecture.config == model.config
    assert (architecture.hints.mean, architecture.hints.std) == IMAGENET
    assert (architecture.hints.crop, architecture.hints.crop_mode) == (0.8, "squash")
    assert not any(line.startswith(("n_heads", "mean", "crop")) for line in architecture.assumed)


def test_timms_pool_activation_and_flat_form_are_read(
    model: VisionTransformer, tmp_path: Path
) -> None:
    arguments = {"act_layer": "gelu_tanh", "global_pool": "avg"}
    flat = {"pretrained_cfg": None, "mean": IMAGENET[0], "std": IMAGENET[1], "crop_pct": 0.8}
    folder = timm_repository(tmp_path / "a", model, model_args=arguments, **flat)
    architecture = find_architecture(read_checkpoint(folder), ModelHints())
    assert (architecture.config.block.mlp, architecture.config.readout.pool) == (
        "gelu_tanh",
        "mean",
    )
    assert (architecture.hints.mean, architecture.hints.crop) == (IMAGENET[0], 0.8)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_pool": "map"},
        {"model_args": {"act_layer": "relu"}},
        {"pretrained_cfg": {"crop_pct": "x"}},
        {"pretrained_cfg": {"mean": [[1]]}},
        {"pretrained_cfg": {"std": 5}},
        {"pretrained_cfg": {"mean": [None, None, None]}},
    ],
)
def test_a_timm_config_that_cannot_be_used_is_named(
    changes: dict[str, object], model: VisionTransformer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"config\.json cannot be used"):
        read_checkpoint(timm_repository(tmp_path / "a", model, **changes))


class TestHub:
    """The hub's own client, offline, on a cache in its own layout."""

    @pytest.fixture(autouse=True)
    def _offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    @pytest.mark.parametrize("name", ["timm:tiny.test", "hf:timm/tiny.test", "timm:tiny.test@main"])
    def test_a_cached_repository_is_read(
        self, name: str, model: VisionTransformer, tmp_path: Path
    ) -> None:
        repository = tmp_path / "hub" / "models--timm--tiny.test"
        timm_repository(repository / "snapshots" / ("0" * 40), model)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        checkpoint = read_checkpoint(locate(name))
        assert torch.equal(checkpoint.tensors["norm.bias"], model.norm.bias)

    def test_what_is_not_cached_says_so_in_one_line(self) -> None:
        with pytest.raises(InputError, match="hf:google/none cannot be fetched"):
            locate("hf:google/none")

    def test_a_client_that_is_missing_is_named_with_what_installs_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(InputError, match=r"pip install 'huggingface_hub>="):
            locate("hf:google/none")

    @pytest.mark.parametrize("name", ["hf:", "hf:only", "hf:../../etc", "timm:a/b/c", "timm:a b"])
    def test_malformed_names_are_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="names no repository"):
            locate(name)
