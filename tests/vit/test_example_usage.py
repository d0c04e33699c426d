from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vit import example_usage
from vit.checkpoints import encode_checkpoint
from vit.vision_transformer import VisionTransformer


def test_patches_are_in_reading_order() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    patches = example_usage.cut_patches(image, 2)
    assert patches[1, :, :, 0].tolist() == [[2, 3], [6, 7]]


def test_example_classifies_and_draws(
    digits_model: VisionTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, picture = tmp_path / "digits.safetensors", tmp_path / "patches.png"
    weights.write_bytes(encode_checkpoint(digits_model))
    monkeypatch.setattr("sys.argv", ["example", "--weights", str(weights), "--out", str(picture)])
    example_usage.main()
    assert "the model says 6" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
