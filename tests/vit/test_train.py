"""Runs of `python -m vit_edge.vit.train`: real folders, real processes, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.vit.images import write_classes
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.cli import main as command_line
from vit_edge.vit.checkpoints import encode_checkpoint, read_checkpoint
from vit_edge.vit.train import main
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

MODEL = "vit_test_patch8_32"
QUICK = ["--epochs", "3", "--batch", "8"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "colours", {"red": 10, "blue": 12})


def train(*arguments: object) -> int:
    return main([MODEL, *map(str, arguments)])


def start(*arguments: object) -> subprocess.Popen[str]:
    """Starts a training in a process of its own; no GPU, whose sums need not repeat."""
    return subprocess.Popen(
        [sys.executable, "-m", "vit_edge.vit.train", MODEL, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        # A job in the background inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the training ended without {words!r}")


@pytest.mark.slow
def test_killed_training_goes_on_to_the_very_weights_of_an_undisturbed_one(
    folder: Path, tmp_path: Path
) -> None:
    def options(out: str) -> list[object]:
        return ["--data", folder, "--epochs", 40, "--batch", 8, "--out", tmp_path / out]

    killed = start(*options("killed.safetensors"))
    wait_for(killed, "epoch 2/40")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.safetensors").exists()
    assert (tmp_path / "killed.unfinished.pt").exists()

    resumed = start(*options("killed.safetensors"))
    whole = start(*options("whole.safetensors"))
    news = resumed.communicate()[1]
    assert "going on after epoch" in news, news
    assert "epoch 2/40" not in news
    assert (resumed.returncode, whole.wait()) == (0, 0)
    assert not (tmp_path / "killed.unfinished.pt").exists()
    outcomes = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("killed", "whole")]
    assert outcomes[0] == outcomes[1]


def test_interrupted_training_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    process = start("--data", folder, "--epochs", 400, "--out", tmp_path / "a.safetensors")
    wait_for(process, "epoch 1/400")
    process.send_signal(signal.SIGINT)
    news = process.communicate()[1]
    assert process.returncode == 130
    assert "the same command on the same images goes on" in news
    assert "Traceback" not in news


def test_picture_damaged_on_the_way_is_named_and_finished_epochs_are_kept(
    folder: Path, tmp_path: Path
) -> None:
    process = start("--data", folder, "--epochs", 400, "--out", tmp_path / "a.safetensors")
    wait_for(process, "epoch 1/400")
    cut = folder / "red" / "03.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    news = process.communicate()[1]
    assert process.returncode == 2
    assert f"{cut} is not a readable image" in news
    assert f"kept in {tmp_path / 'a.unfinished.pt'}" in news
    assert (tmp_path / "a.unfinished.pt").exists()


def test_weights_carry_config_class_names_and_preprocessing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.safetensors"
    assert train("--data", folder, *QUICK, "--image-size", 48, "--out", out) == 0
    config = read_checkpoint(out).config
    assert config is not None
    assert (config.num_classes, config.img_size) == (2, 48)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["vit_edge.labels"]) == ["blue", "red"]
    preprocess = json.loads(metadata["vit_edge.preprocess"])
    assert Preprocess(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in preprocess.items()}
    ).shape
    assert preprocess["height"] == 48
    assert sorted(f.name for f in out.parent.iterdir()) == ["a.png", "a.safetensors"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_it_learns_and_measures_on_the_folder_named_by_eval(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = write_classes(tmp_path / "held", {"red": 5})
    options = ["--data", folder, "--eval", evaluation, "--epochs", 12, "--batch", 8]
    assert train(*options, "--out", tmp_path / "a.safetensors") == 0
    assert "top-1 on 5 validation images: 100.00 %" in capsys.readouterr().out


def test_fine_tuning_keeps_the_weights_and_fits_head_and_positions(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    model = VisionTransformer.from_config(find_variant(MODEL).config)
    weights, out = tmp_path / "start.safetensors", tmp_path / "tuned.safetensors"
    weights.write_bytes(encode_checkpoint(model))
    options = ["--weights", weights, "--epochs", 1, "--learning-rate", 1e-6, "--out", out]
    options += ["--image-size", 48]
    assert train("--data", folder, *options) == 0
    tuned = read_checkpoint(out).tensors
    assert tuned["pos_embed"].shape == (1, 1 + 6 * 6, 64)
    assert tuned["head.weight"].shape == (2, 64)
    difference = tuned["blocks.1.mlp.fc1.weight"] - model.state_dict()["blocks.1.mlp.fc1.weight"]
    assert 0 < difference.abs().max() < 1e-4


def test_unfinished_training_with_other_settings_is_not_touched(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, state = tmp_path / "a.safetensors", tmp_path / "a.unfinished.pt"
    process = start("--data", folder, "--epochs", 400, "--batch", 8, "--out", out)
    wait_for(process, "epoch 1/400")
    process.kill()
    process.wait()
    before = state.read_bytes()
    assert train("--data", folder, "--epochs", 5, "--batch", 8, "--out", out) == 2
    error = capsys.readouterr().err
    assert "--epochs was 400, is 5" in error
    assert "another --out" in error
    assert state.read_bytes() == before


def test_diverged_training_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert train("--data", folder, *QUICK, "--learning-rate", 1e30, "--out", out) == 2
    assert "--learning-rate smaller than 1e+30" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", ["damaged", "another file"])
def test_file_that_is_no_state_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    state = tmp_path / "a.unfinished.pt"
    if content == "damaged":
        state.write_bytes(b"PK\x03\x04 not really")
    else:
        torch.save({"settings": "{}"}, state)
    assert train("--data", folder, *QUICK, "--out", tmp_path / "a.safetensors") == 2
    assert f"{state} is no state of an unfinished training" in capsys.readouterr().err


def test_truncated_png_is_found_before_training_begins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = folder / "red" / "03.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    assert train("--data", folder, *QUICK, "--out", tmp_path / "a.safetensors") == 2
    error = capsys.readouterr().err
    assert f"{cut} is not a readable image" in error
    assert "training" not in error


def test_picture_that_cannot_be_decoded_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cuts a JPEG at its end, of which the header says nothing."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    cut = folder / "red" / "cut.jpg"
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    assert train("--data", folder, *QUICK, "--out", tmp_path / "a.safetensors") == 2
    assert f"{cut} is not a readable image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "0"], "--epochs is 0"),
        (["--batch", "-1"], "--batch is -1"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--seed", "-1"], "--seed is -1"),
        (["--image-size", "30"], "--image-size 30"),
        (["--out", "weights.bin"], "ends with .safetensors"),
        (["--out", "/proc/none/a.safetensors"], "cannot be written"),
        (["--weights", "none.safetensors"], "no checkpoint file"),
        (["--eval", "none"], "no image folder at none"),
    ],
)
def test_options_that_cannot_work_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert train("--data", folder, *arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_weights_of_another_model_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "digits.safetensors"
    model = VisionTransformer.from_config(find_variant("vit_digits").config)
    weights.write_bytes(encode_checkpoint(model))
    assert train("--data", folder, "--weights", weights) == 2
    assert (
        "another model than vit_test_patch8_32 (depth 4, not 2; n_heads 4, not 2"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "3"], "--epochs needs --data"),
        (["vit_tiny_patch16_224"], "vit_tiny_patch16_224 needs --data"),
        (["vit_gigantic"], "unknown model 'vit_gigantic'"),
        (["--data", "pictures"], "--data needs a MODEL"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_vit_edge_train_is_the_same_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    options = ["train", MODEL, "--data", str(folder), "--out", str(out), "--batch", "8"]
    assert command_line([*options, "--epochs", "1"]) == 0
    assert read_checkpoint(out).hints.labels == ("blue", "red")
    assert command_line([*options, "--augment", "mirrors"]) == 2
    assert "choose from photographs, symbols, none" in capsys.readouterr().err
