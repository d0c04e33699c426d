from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from runtime.example_app import main, watch


def test_each_picture_gets_a_class(
    bundle_source: Path,
    digit_frames: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index in range(3):
        Image.fromarray(digit_frames[index, :, :, 0]).save(tmp_path / f"{index}.png")
    monkeypatch.setattr("sys.argv", ["app", str(bundle_source), str(tmp_path)])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("0.png: class 6")
    assert len(lines) == 4


def test_a_missing_bundle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["app", str(tmp_path / "none"), str(tmp_path)])
    assert main() == 2
    assert "there is no bundle at" in capsys.readouterr().err


def test_a_missing_folder_is_named(bundle_source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of pictures"):
        watch(bundle_source, tmp_path / "none")
