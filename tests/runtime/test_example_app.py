from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.example_app import main, watch

from .videos import write_video


@pytest.fixture
def folder(digit_frames: np.ndarray, tmp_path: Path) -> Path:
    for index in range(3):
        Image.fromarray(digit_frames[index, :, :, 0]).save(tmp_path / f"{index}.png")
    return tmp_path


def test_each_picture_of_a_folder_gets_a_class(
    bundle_source: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["app", str(bundle_source), str(folder)])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{folder}/0.png: class 6")
    assert len(lines) == 5
    assert lines[4].endswith("images a second")


def test_a_video_may_be_watched(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "clip.mp4", 4)
    watch(bundle_source, str(path))
    assert f"{path}, frame 3: class" in capsys.readouterr().out


def test_a_missing_bundle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["app", str(tmp_path / "none"), str(tmp_path)])
    assert main() == 2
    assert "there is no bundle at" in capsys.readouterr().err


def test_a_missing_source_is_named(bundle_source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image at"):
        watch(bundle_source, str(tmp_path / "none"))
