"""`vit-edge drift`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runtime.videos import write_video
from vit_edge.runtime.tools.cli import main
from vit_edge.vit.datasets import digits
from vit_edge.vit.variants import find_variant


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    images = digits("calibration", find_variant("vit_digits").preprocess)
    return next(images.batches(len(images)))


def folder_of(frames: np.ndarray, path: Path) -> Path:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame[:, :, 0]).save(path / f"{index:03}.png")
    return path


def drift(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    options = ["--precision", "fp32", "--backend", "onnxruntime"]
    status = main(["drift", *map(str, arguments), *options])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_clean_images_end_with_0(
    bundle_source: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = drift(capsys, bundle_source, folder_of(frames, tmp_path / "clean"))
    assert status == 0
    assert out.splitlines()[-1].startswith("no drift: 128 images beside 600 of scikit-learn")


def test_drift_ends_with_1_and_says_what_it_looks_like(
    bundle_source: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of((frames * 0.6).astype(np.uint8), tmp_path / "dark")
    status, out, _ = drift(capsys, bundle_source, folder)
    assert status == 1
    assert "drift: 128 images" in out
    assert "the images are darker" in out


def test_json_has_all_numbers(
    bundle_source: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "inverted.npz", images=255 - frames)
    status, out, _ = drift(capsys, bundle_source, tmp_path / "inverted.npz", "--json")
    value = json.loads(out)
    assert status == 1
    assert value["drift"] is True
    assert (value["images"], value["reference_images"], value["failed"]) == (128, 600, 0)
    assert value["engine"]["backend"] == "onnxruntime"
    brightness = value["statistics"][0]
    assert brightness["name"] == "brightness"
    assert brightness["drifted"] is True
    assert brightness["now"]["median"] > brightness["reference"]["median"]


def test_pictures_that_cannot_be_read_are_named_and_left_out(
    bundle_source: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(frames[:64], tmp_path / "clean")
    (folder / "torn.png").write_bytes(b"torn")
    status, out, err = drift(capsys, bundle_source, folder)
    assert status == 1
    assert "torn.png" in err
    assert "no drift: 64 images" in out
    assert "1 of 65 could not be read" in err
    assert "64 images" in out


def test_a_video_is_judged_by_its_frames(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 24)
    status, out, _ = drift(capsys, bundle_source, clip, "--every", "2", "--json")
    assert json.loads(out)["images"] == 12
    assert status == 1


@pytest.mark.parametrize("what", ["nowhere", "empty", "few"])
def test_bad_input_ends_with_2_and_a_line(
    bundle_source: Path,
    frames: np.ndarray,
    tmp_path: Path,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    folder_of(frames[:1], tmp_path / "few")
    status, out, err = drift(capsys, bundle_source, tmp_path / what)
    assert (status, out) == (2, "")
    named = {"nowhere": "no image", "empty": "no images", "few": "too few to tell"}
    assert named[what] in err


def test_an_alarm_rate_out_of_range_is_named(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = drift(capsys, bundle_source, tmp_path, "--alarm-rate", "2")
    assert status == 2
    assert "alarm_rate is 2.0" in err
