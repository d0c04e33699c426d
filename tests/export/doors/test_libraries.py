"""Models of three libraries with the preprocessing that they bring, and functions of a user's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import oracles
from vit_edge.export.doors import (
    DOORS,
    find_source,
    function,
    timm,
    torchvision,
    transformers,
)
from vit_edge.export.doors.module import ModuleSource
from vit_edge.export.plan import ExportRequest
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.hints import IMAGENET, ModelHints

from ...vit.checkpoints.parity import shake

TIMM, TORCHVISION = "timm:test_vit", "torchvision:shufflenet_v2_x0_5"
FUNCTION = """
from dataclasses import dataclass
from torch import nn
import beside

@dataclass
class Options:
    width: int = beside.WIDTH

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, Options().width))

def wrong():
    return {}["nothing"]

def number():
    return 3
"""


def _request(model: str, weights: object = None, **facts: Any) -> ExportRequest:
    given = None if weights is None else str(weights)
    return ExportRequest(model=model, weights=given, facts=ModelHints(**facts))


def _save(module: nn.Module, path: Path, prefix: str = "") -> Path:
    state = {prefix + name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, path)
    return path


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)


def test_each_model_finds_its_door(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    models = {
        "timm:vit": "timm",
        "torchvision:swin_t": "torchvision",
        "hf:owner/name": "hf",
        str(tmp_path): "hf",
        "models/mine.py:build": "function",
        "vit_tiny_patch16_224": "own",
    }
    for model, expected in models.items():
        request = _request(model)
        assert next(name for name, door in DOORS.items() if door.takes(request)) == expected
    assert DOORS["own"].takes(ExportRequest())
    assert DOORS["onnx"].takes(ExportRequest(onnx=tmp_path))


@pytest.mark.parametrize(
    ("model", "library"),
    [(TIMM, "timm"), (TORCHVISION, "torchvision"), ("hf:owner/name", "transformers")],
)
def test_a_library_that_is_missing_is_named(
    model: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=f"needs {library}: pip install '{library}>="):
        find_source(_request(model, "random"))


def test_timm_with_weights_of_a_file_and_another_head(tmp_path: Path) -> None:
    oracle = shake(oracles.timm().create_model("test_vit", num_classes=7))
    loaded = timm.load(_request(TIMM, _save(oracle, tmp_path / "w.safetensors", "module.")))
    assert _same(loaded.module, oracle)
    assert (loaded.weights, loaded.name) == ("w.safetensors", "test_vit")
    assert loaded.hints.img_size == (160, 160)
    assert loaded.hints.mean == (0.5, 0.5, 0.5)
    assert loaded.hints.crop == 0.95
    assert loaded.hints_from == "timm's pretrained_cfg"
    headless = shake(oracles.timm().create_model("test_vit", num_classes=0))
    torch.save({"state_dict": headless.state_dict()}, tmp_path / "w.pth")
    assert _same(timm.load(_request(TIMM, tmp_path / "w.pth")).module, headless)


def test_of_several_copies_in_a_file_one_is_taken(tmp_path: Path) -> None:
    one, other = (shake(oracles.timm().create_model("test_vit", num_classes=2)) for _ in range(2))
    other.head.bias.data[:] = 7
    state = {f"module.{name}": value for name, value in other.state_dict().items()}
    optimiser = {"exp_avg": torch.zeros(3)}
    file = {"state_dict": one.state_dict(), "state_dict_ema": state, "optimizer": optimiser}
    torch.save(file, tmp_path / "w.pth")
    loaded = timm.load(_request(TIMM, tmp_path / "w.pth"))
    assert _same(loaded.module, other)  # as timm itself
    count = len(one.state_dict()) + 1
    assert loaded.notes == (
        "weights of state_dict_ema are taken",
        f"left out of w.pth: {count} tensors, as state_dict.cls_token",
    )
    asked = timm.load(_request(TIMM, tmp_path / "w.pth", checkpoint_key="state_dict"))
    assert _same(asked.module, one)
    torch.save({"a": one.state_dict(), "b": other.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"several copies of the model \(a, b\): choose one with"):
        timm.load(_request(TIMM, tmp_path / "w.pth"))


def test_timm_at_another_size_resamples_positions(tmp_path: Path) -> None:
    library = oracles.timm()
    oracle = shake(library.create_model("test_vit"))
    path = _save(oracle, tmp_path / "w.safetensors")
    loaded = timm.load(_request(TIMM, path, img_size=(64, 96)))
    assert loaded.module.patch_embed.img_size == (64, 96)  # type: ignore[union-attr]
    resample = library.layers.resample_abs_pos_embed
    expected = resample(oracle.pos_embed, [4, 6], num_prefix_tokens=1)
    assert torch.equal(loaded.module.pos_embed, expected)  # type: ignore[arg-type]
    assert torch.equal(loaded.module.head.weight, oracle.head.weight)  # type: ignore


def test_random_weights_are_asked_for_by_name(tmp_path: Path) -> None:
    oracles.timm()
    before = torch.get_rng_state()
    one, other = (timm.load(_request(TIMM, "random")) for _ in range(2))
    assert _same(one.module, other.module)
    assert one.weights == "random"
    assert torch.equal(before, torch.get_rng_state())


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    library = oracles.timm()
    create = library.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("the hub is not there\nmore")
        return create(name, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(library, "create_model", offline)
    with pytest.raises(InputError, match=r"the hub is not there.*--weights FILE, or --weights ran"):
        timm.load(_request(TIMM))


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    oracles.timm()
    path = _save(nn.Linear(3, 3), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w.safetensors does not fit the model: \d+ missing"):
        timm.load(_request(TIMM, path))
    with pytest.raises(InputError, match="no file of weights at"):
        timm.load(_request(TIMM, tmp_path / "none.pth"))


def test_unknown_names_are_answered_with_near_ones() -> None:
    oracles.torchvision()
    with pytest.raises(InputError, match="timm has no model 'test_vi'; near are test_vit"):
        timm.load(_request("timm:test_vi"))
    with pytest.raises(InputError, match="torchvision has no model 'swin'; near are swin3d_b"):
        torchvision.load(_request("torchvision:swin"))


def test_torchvision_with_its_own_transforms(tmp_path: Path) -> None:
    models = oracles.torchvision().models
    oracle = shake(models.shufflenet_v2_x0_5(num_classes=3))
    loaded = torchvision.load(_request(TORCHVISION, _save(oracle, tmp_path / "w.safetensors")))
    assert _same(loaded.module, oracle)
    assert (loaded.hints.mean, loaded.hints.std) == IMAGENET
    assert (loaded.hints.img_size, loaded.hints.crop) == ((224, 224), 224 / 256)
    assert loaded.hints.interpolation == "bilinear"
    assert loaded.hints.labels is not None
    assert len(loaded.hints.labels) == 1000


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
PROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "image_mean": IMAGENET[0],
    "image_std": IMAGENET[1],
    "do_reduce_labels": True,
}


def _dinov2() -> nn.Module:
    library = oracles.transformers()
    names = {i: f"kind {i}" for i in range(6)}
    config = library.Dinov2Config(**SIZES, image_size=32, id2label=names)
    return shake(library.Dinov2ForImageClassification(config))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that `save_pretrained` wrote, with its image processor."""
    folder = tmp_path / "dino"
    _dinov2().save_pretrained(folder)  # type: ignore[operator]
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def test_a_saved_folder_brings_everything(saved: Path) -> None:
    source = find_source(_request(str(saved)))
    assert isinstance(source, ModuleSource)
    assert source.preprocess == Preprocess(
        32, 32, 3, 32 / 36, "bicubic", *IMAGENET, crop_mode="center_floor"
    )
    assert source.labels == tuple(f"kind {i}" for i in range(6))
    assert source.assumed == ()
    assert (source.name, source.weights) == ("dino", "hf:dino")
    assert source.facts["class"] == "Dinov2ForImageClassification"
    assert not source.random


def test_names_that_replace_those_of_the_folder_are_compared_with_them(saved: Path) -> None:
    names = ("kind 1", "kind 0", *(f"kind {i}" for i in range(2, 6)))
    source = find_source(_request(str(saved), labels=names))
    assert source.labels == names
    assert "another order" in source.inferred
    assert "class 0 is 'kind 1', and 'kind 0' there" in source.inferred


def test_a_saved_folder_takes_weights_of_a_file(saved: Path, tmp_path: Path) -> None:
    other = _dinov2()
    other.classifier.bias.data[:] = 3  # type: ignore[union-attr]
    loaded = transformers.load(_request(f"hf:{saved}", _save(other, tmp_path / "o.safetensors")))
    assert _same(loaded.module, other)


def test_weights_that_would_be_random_are_refused(saved: Path) -> None:
    state = _dinov2().state_dict()
    del state["classifier.bias"]
    save_file(state, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights of Dinov2.*random: classifier.bias"):
        transformers.load(_request(f"hf:{saved}"))


def test_of_two_towers_the_one_for_images_is_taken(tmp_path: Path) -> None:
    library = oracles.transformers()
    text = {**SIZES, "intermediate_size": 32, "vocab_size": 9, "max_position_embeddings": 5}
    text = {k: v for k, v in text.items() if k != "patch_size"}
    vision = {**SIZES, "intermediate_size": 32, "image_size": 16}
    config = library.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    library.CLIPModel(config).save_pretrained(tmp_path / "clip")
    loaded = transformers.load(_request(f"hf:{tmp_path / 'clip'}"))
    assert type(loaded.module).__name__ == "CLIPVisionModelWithProjection"
    assert loaded.hints.img_size == (16, 16)
    assert "left out:" in loaded.notes[0]


def test_folders_of_others_than_transformers_are_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(InputError, match="Python code of its own"):
        transformers.load(_request(f"hf:{saved}"))
    (saved / "config.json").write_text('{"architecture": "eva02_tiny_patch14_224"}')
    with pytest.raises(InputError, match="of timm, not of transformers: give timm:eva02_tiny_pat"):
        transformers.load(_request(f"hf:{saved}"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "mine.py").write_text(FUNCTION)
    return tmp_path / "mine.py"


def test_a_function_of_a_file_makes_the_module(file: Path, tmp_path: Path) -> None:
    path = list(sys.path)
    loaded = function.load(_request(f"{file}:build"))
    assert loaded.module[1].out_features == 4  # type: ignore[index]
    assert loaded.weights == "of mine.py:build"
    assert sys.path == path
    weights = _save(shake(loaded.module), tmp_path / "w.safetensors", "model.")
    assert _same(function.load(_request(f"{file}:build", weights)).module, loaded.module)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("none", "has no function 'none'; it has dataclass, Options, build, wrong, number"),
        ("wrong", "mine.py:wrong failed (KeyError: 'nothing')"),
        ("number", "returns a int: a torch.nn.Module is expected"),
    ],
)
def test_functions_that_cannot_be_used_are_named(name: str, named: str, file: Path) -> None:
    with pytest.raises(InputError) as caught:
        function.load(_request(f"{file}:{name}"))
    assert named in str(caught.value)


def test_files_that_fail_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no Python file at"):
        function.load(_request(f"{tmp_path / 'none.py'}:build"))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"broken.py failed \(ZeroDivisionError: division by z"):
        function.load(_request(f"{tmp_path / 'broken.py'}:build"))
