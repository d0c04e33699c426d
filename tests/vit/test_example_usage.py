from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_edge.vit import example_rollout, example_usage
from vit_edge.vit.checkpoints import encode_checkpoint
from vit_edge.vit.datasets import digits
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

SMALL = find_variant("vit_test_patch8_32")
TEN = tuple("abcdefghij")


def test_patches_are_in_reading_order() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    patches = example_usage.cut_patches(image, 2)
    assert patches[1, :, :, 0].tolist() == [[2, 3], [6, 7]]


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    model = VisionTransformer.from_config(SMALL.config)
    path.write_bytes(encode_checkpoint(model, SMALL.preprocess, TEN))
    return path


def test_example_classifies_and_draws(
    digits_model: VisionTransformer,
    untrained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = tmp_path / "digits.safetensors"
    pictures = [tmp_path / "new" / f"{name}.png" for name in ("patches", "rollout")]
    weights.write_bytes(encode_checkpoint(digits_model))
    options = ["--weights", weights, "--rollout-weights", untrained]
    options += ["--out", pictures[0], "--rollout-out", pictures[1]]
    assert example_usage.main(list(map(str, options))) == 0
    assert "the model says 6" in capsys.readouterr().out
    digit = Image.open(tmp_path / "new" / "example_digit.png")
    expected = next(digits("evaluation", find_variant("vit_digits").preprocess).batches(1))
    np.testing.assert_array_equal(np.asarray(digit), expected[0, :, :, 0])
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--index", "9999"], "--index is 9999: held-back digits go from 0 to 599"),
        (["--index", "-1"], "--index is -1"),
        (["--weights", "small.safetensors"], "small.safetensors is of another model"),
        (["--weights", "."], ". is a folder"),
        (["--out", "/proc/none/a.png"], "/proc/none/a.png cannot be written"),
    ],
)
def test_what_cannot_work_is_named_in_one_line(
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(untrained.parent)
    assert example_usage.main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_rollout_needs_a_model_that_says_how_pictures_are_prepared(
    digits_model: VisionTransformer, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(encode_checkpoint(digits_model))
    with pytest.raises(ValueError, match="no class names and preprocessing"):
        example_rollout.load_or_train(bare)


def test_crops_to_train_on_and_held_back_parts_share_no_column() -> None:
    widths = [example_rollout.cut_band("china", split).width for split in ("train", "held_back")]
    assert sum(widths) == 640
    assert all(part.image.width <= widths[1] for part in example_rollout.held_back_parts())
