"""One ViT in the files that trainings and wrappers make of it: each gives its outputs."""

from __future__ import annotations

import argparse
import os
import subprocess
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vit_edge.runtime.errors import InputError
from vit_edge.vit.checkpoints import (
    Checkpoint,
    build_model,
    encode_checkpoint,
    find_architecture,
    read_checkpoint,
)
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(model: VisionTransformer) -> State:
    return dict(model.state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    """Weights of the same names that are not the right ones."""
    return {name: tensor + 1 for name, tensor in state.items()}


def read(value: object, folder: Path, key: str | None = None, name: str = "file.pth") -> Checkpoint:
    torch.save(value, folder / name)
    return read_checkpoint(folder / name, key)


def require_same(checkpoint: Checkpoint, model: VisionTransformer) -> None:
    hints = ModelHints(n_heads=model.config.n_heads)
    found = find_architecture(checkpoint, hints)
    assert found.config == model.config
    built = build_model(found.config, checkpoint.tensors, "file", found.native)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(built(images), model(images))


@pytest.mark.parametrize(
    "prefix",
    [
        "encoder.", "vit.", "timm_model.", "visual.trunk.", "module.", "_orig_mod.",
        "module._orig_mod.", "_orig_mod.module.", "model.module.net.backbone.", "student.net.0.",
        "a.b.c.d.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_prefix(
    prefix: str, suffix: str, state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    if suffix == ".pth":
        require_same(read(under(prefix, state), tmp_path), model)
        return
    save_file(under(prefix, state), tmp_path / "file.safetensors")
    require_same(read_checkpoint(tmp_path / "file.safetensors"), model)


class _Metric:
    """A class of the user's own."""

    def __init__(self, best: float) -> None:
        self.best = best


class _Options(dict[str, Any]):
    """A mapping of the user's own, as configuration libraries have them."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model_state_dict": s, "epoch": 3},
        lambda s: {"network": s},
        lambda s: {"a": {"b": {"c": under("module.", s)}}},
        lambda s: {"state_dict": under("model.", s), "pytorch-lightning_version": "2.1"},
        lambda s: {**under("module.", s), "n_averaged": torch.tensor(5)},
        lambda s: {"state_dict": {**under("model.", s), "criterion.weight": torch.ones(10)}},
        lambda s: {**s, "criterion.weight": torch.ones(10), "mask_token": torch.ones(1, 1, 64)},
        lambda s: {"model": s, "args": argparse.Namespace(lr=1.0), "best": _Metric(0.5)},
        lambda s: {"model": s, "cfg": _Options(lr=1.0, sizes=_Options(width=3))},
        lambda s: {"model": s, "path": Path("/nowhere"), "space": types.SimpleNamespace(a=1)},
        lambda s: {
            "model": s,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1}]},
        },
        lambda s: {"model": s, "optimizer": {"exp_avg": other(s), "module": other(s)}},
        lambda s: {"model": s, "state_dict": s},
        lambda s: {"backbone." + n if not n.startswith("head") else n: t for n, t in s.items()},
        lambda s: {
            ("net.backbone." + n if not n.startswith("head") else n.replace("head", "net.fc")): t
            for n, t in s.items()
        },
        lambda s: {n.replace("head.", "classifier.1."): t for n, t in s.items()},
        lambda s: {
            ("0." + n if not n.startswith("head") else n.replace("head", "1")): t
            for n, t in s.items()
        },
    ],
)
def test_any_wrapper(
    wrap: Callable[[State], object], state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    require_same(read(wrap(state), tmp_path), model)


@pytest.mark.parametrize("zipped", [True, False])
def test_any_object_beside_the_weights(
    zipped: bool, state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    """`zipped` is PyTorch's format since 1.6."""

    def read(value: object) -> Checkpoint:
        path = tmp_path / "a.pth"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        return read_checkpoint(path)

    trainer = torch.optim.AdamW(model.parameters())
    objects = {
        "metric": _Metric(0.5), "best": np.float64(0.5), "numbers": np.ones(3), "kinds": {1, 2},
        "random": torch.get_rng_state(), "generator": np.random.get_state(), "type": torch.float16,
        "optimizer": trainer, "schedule": torch.optim.lr_scheduler.ConstantLR(trainer),
        "log": defaultdict(list, a=[1]), "function": np.mean, "size": torch.Size([1]),
        "path": tmp_path,
    }  # fmt: skip
    require_same(read({"model": state, **objects}), model)
    require_same(
        read({"model": state, "options": _Options(a=_Options()), "best": np.int8(3)}), model
    )
    for program in (os.system, eval, subprocess.Popen, print):
        with pytest.raises(InputError, match="refused"):
            read({"model": state, "x": program})


@pytest.mark.parametrize("name", ["last.ckpt", "best.pth.tar", "weights", "weights.model", "w.pkl"])
def test_any_suffix(name: str, state: State, model: VisionTransformer, tmp_path: Path) -> None:
    require_same(read(state, tmp_path, name=name), model)
    (tmp_path / "hash").write_bytes(encode_checkpoint(model))
    assert read_checkpoint(tmp_path / "hash").config == model.config


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda good, bad: {"state_dict": bad, "state_dict_ema": good}, "state_dict"),
        (lambda good, bad: {"model": bad, "model_ema": good}, "model"),
        (lambda good, bad: {"model": bad, "ema": {"module": good}}, "model"),
        (lambda good, bad: {"student": under("module.", bad), "teacher": good}, "student"),
        (lambda good, bad: {"sd": under("model.", bad) | under("ema_model.", good)}, "model"),
        (lambda good, bad: under("base_encoder.", good) | under("momentum_encoder.", bad), None),
        (lambda good, bad: {"encoder": bad, "target_encoder": good}, "encoder"),
        (lambda good, bad: under("online_network.", good) | under("target_network.", bad), None),
    ],
)  # fmt: skip
def test_of_several_copies_the_usual_one_is_taken_and_the_other_named(
    wrap: Callable[[State, State], object],
    key: str | None,
    state: State,
    model: VisionTransformer,
    tmp_path: Path,
) -> None:
    value = wrap(state, other(state))
    checkpoint = read(value, tmp_path)
    require_same(checkpoint, model)
    (note,) = checkpoint.notes
    assert "weights of " in note
    if key is not None:
        assert f"--checkpoint-key {key}" in note or f"--checkpoint-key sd.{key}" in note
        chosen = read_checkpoint(tmp_path / "file.pth", key).tensors["norm.weight"]
        torch.testing.assert_close(chosen, state["norm.weight"] + 1)


def test_copies_that_nothing_tells_apart_are_asked_for(
    state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    value = {"left": other(state), "right": state}
    with pytest.raises(InputError, match=r"2 models \(left, right\).*--checkpoint-key left"):
        read(value, tmp_path)
    require_same(read(value, tmp_path, "right"), model)
    with pytest.raises(InputError, match=r"no weights or head called 'middle'"):
        read({"right": state}, tmp_path, "middle")


def test_of_several_heads_head_is_taken_and_others_can_be(
    state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    heads = {"aux_head.weight": torch.ones(3, 64), "aux_head.bias": torch.zeros(3)}
    checkpoint = read({**state, **heads}, tmp_path)
    require_same(checkpoint, model)
    assert checkpoint.notes == ("head is the head; aux_head left out (--checkpoint-key aux_head)",)
    chosen = read_checkpoint(tmp_path / "file.pth", "aux_head")
    assert chosen.tensors["head.weight"].shape == (3, 64)
    renamed = {n.replace("head.", "heads.0."): t for n, t in state.items()}
    several = {**renamed, "heads.1.weight": torch.ones(3, 64), "heads.1.bias": torch.zeros(3)}
    with pytest.raises(InputError, match=r"2 heads \(heads.0 of 10, heads.1 of 3\)"):
        read(several, tmp_path)
    require_same(read(several, tmp_path, "heads.0"), model)


def test_what_is_left_out_is_said_and_a_head_that_was_found_is_assumed(
    state: State, tmp_path: Path
) -> None:
    moved = {
        n.replace("head.", "fc.") if n.startswith("head") else f"b.{n}": t for n, t in state.items()
    }
    extra = {"criterion.weight": torch.ones(10), "projector.0.weight": torch.ones(64, 64)}
    checkpoint = read({**moved, **extra}, tmp_path)
    assert checkpoint.notes == ("left out: 2 tensors, of criterion (1), projector (1)",)
    assert checkpoint.assumed == ("head fc (the only Linear behind the features)",)


def test_layers_of_an_unknown_kind_are_still_refused(
    state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    for name in ("attn_pool.q.weight", "blocks.0.attn.rel_pos", "neck.0.weight"):
        checkpoint = read({**state, name: torch.ones(3, 64)}, tmp_path)
        with pytest.raises(InputError, match="1 unexpected"):
            build_model(model.config, checkpoint.tensors, "file")


def test_a_whole_module_is_read_without_its_classes(
    model: VisionTransformer, tmp_path: Path
) -> None:
    require_same(read(model, tmp_path), model)
    require_same(read({"model": nn.Sequential(model), "epoch": 1}, tmp_path), model)


@pytest.mark.parametrize("scale", ["lora_alpha", "alpha"])
def test_adapters_are_merged_where_their_scale_is_there(
    scale: str, state: State, model: VisionTransformer, tmp_path: Path
) -> None:
    down, up = torch.randn(4, 64), torch.randn(192, 4)
    base = dict(state)
    layer = "blocks.0.attn.qkv"
    base[f"{layer}.weight"] = base[f"{layer}.weight"] - 8 / 4 * (up @ down)
    if scale == "alpha":
        halves = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        checkpoint = read({**base, **halves, f"{layer}.alpha": torch.tensor(8.0)}, tmp_path)
    else:
        wrapped = {n.replace(f"{layer}.", f"{layer}.base_layer."): t for n, t in base.items()}
        wrapped |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
        wrapped |= {
            n.replace("head.", "head.modules_to_save.default."): t
            for n, t in state.items()
            if "head" in n
        }
        wrapped |= {
            n.replace("head.", "head.original_module."): 0 * t
            for n, t in state.items()
            if "head" in n
        }
        del wrapped["head.weight"], wrapped["head.bias"]
        peft = under("base_model.model.", wrapped)
        checkpoint = read({"state_dict": peft, "hparams": {"lora_alpha": 8}}, tmp_path)
    assert checkpoint.notes[0] == "LoRA adapters of 1 layers are merged, scaled by 2"
    found = find_architecture(checkpoint, ModelHints(n_heads=2)).config
    built = build_model(found, checkpoint.tensors, "file").state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(built[name], tensor, atol=1e-5, rtol=1e-5)


def test_adapters_that_cannot_be_merged_are_named(state: State, tmp_path: Path) -> None:
    layer = "blocks.0.attn.qkv"
    halves = {
        f"{layer}.lora_A.weight": torch.ones(4, 64),
        f"{layer}.lora_B.weight": torch.ones(192, 4),
    }
    with pytest.raises(InputError, match=r"LoRA .* lora_alpha is not in it: merge them"):
        read({**state, **halves}, tmp_path)
    with pytest.raises(InputError, match="LoRA adapters without the weights"):
        read(halves, tmp_path)
    with pytest.raises(InputError, match="adapters that are not merged"):
        read({**state, f"{layer}.lora_magnitude_vector": torch.ones(3)}, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "google/vit"}')
    with pytest.raises(InputError, match=r"adapter of a model and not the model \(google/vit\)"):
        read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_programs_are_answered_with_the_way_to_their_weights(
    model: VisionTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "program.pt"
    torch.jit.trace(model, torch.randn(1, 3, 32, 32)).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"TorchScript.*torch\.jit\.load"):
        read_checkpoint(path)
    weights = torch.jit.load(str(path)).state_dict()  # type: ignore[no-untyped-call]
    require_same(read(weights, tmp_path), model)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="--onnx"):
        read_checkpoint(tmp_path / "model.onnx")


def test_a_size_that_patches_do_not_divide_is_blamed_on_the_size(
    state: State, tmp_path: Path
) -> None:
    checkpoint = read(state, tmp_path)
    with pytest.raises(
        InputError, match=r"image size of 36x50 .*8 pixels: give --image-size 32x48 or 40x56"
    ):
        find_architecture(checkpoint, ModelHints(img_size=(36, 50)))


def test_a_pool_that_leaves_no_trace_is_assumed(state: State, tmp_path: Path) -> None:
    checkpoint = read(state, tmp_path)
    assumed = find_architecture(checkpoint, ModelHints()).assumed
    assert "pool class_token (usual for timm; the tensors fit mean as well: --pool mean)" in assumed
    given = find_architecture(checkpoint, ModelHints(pool="mean"))
    assert given.config.readout.pool == "mean"
    assert not any("pool" in words for words in given.assumed)
    assert "pool mean (given)" in given.inferred


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("square", "circle"), "another order than the file has them: class 0 is 'square', and"),
        (("circle", "cube"), "1 of 2 others than the file has: class 1 is 'cube', and 'square'"),
        (("circle", "square"), ""),
        (("a", "b", "c"), "class names are the 3 that are given; the file has 2"),
        (None, ""),
    ],
)
def test_what_the_user_gives_and_the_file_has_otherwise_is_said(
    labels: tuple[str, ...] | None, words: str, state: State, tmp_path: Path
) -> None:
    value = {"state_dict": state, "class_to_idx": {"square": 1, "circle": 0}}
    torch.save({**value, "args": argparse.Namespace(crop_pct=0.8)}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    read = find_architecture(checkpoint, ModelHints(labels=labels, crop=0.9))
    assert read.hints.labels == (labels or ("circle", "square"))
    assert "crop 0.9 (given; file: 0.8)" in read.inferred
    assert words in read.inferred
    assert words or "class names" not in read.inferred
    assert "crop 0.8 (given)" in find_architecture(checkpoint, ModelHints(crop=0.8)).inferred


def test_what_a_training_saved_beside_its_weights_is_read(state: State, tmp_path: Path) -> None:
    options = argparse.Namespace(gp="avg", mean=[0.1, 0.2, 0.3], crop_pct=0.8, interpolation="")
    names = {"square": 1, "circle": 0}
    value = {
        "state_dict": state,
        "args": options,
        "class_to_idx": names,
        "arch": "vit_test_patch8_32.mine",
    }
    checkpoint = read(value, tmp_path)
    assert checkpoint.hints == ModelHints(
        pool="mean", mean=(0.1, 0.2, 0.3), crop=0.8, labels=("circle", "square")
    )
    found = find_architecture(checkpoint, ModelHints())
    assert found.hints.std == (0.5, 0.5, 0.5)
    assert any("as vit_test_patch8_32, which the file names" in words for words in found.assumed)
