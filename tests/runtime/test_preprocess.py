from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError
from runtime.preprocess import Preprocess

HALF = (0.5, 0.5, 0.5)
SQUARE = Preprocess(224, 224, 3, 0.875, "bicubic", HALF, HALF)


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (224, 224), (50, 30)])
def test_any_picture_becomes_the_models_shape(size: tuple[int, int]) -> None:
    frame = SQUARE(gradient(*size))
    assert frame.shape == (224, 224, 3)
    assert frame.dtype == np.uint8


def test_a_picture_of_the_right_size_is_untouched() -> None:
    exact = dataclasses.replace(SQUARE, crop=1.0)
    picture = gradient(224, 224)
    np.testing.assert_array_equal(exact(picture), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    picture = gradient(64, 64)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16))
    else:
        picture = picture.convert(mode)
    assert SQUARE(picture).shape == (224, 224, 3)


def test_a_photograph_taken_upright_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    path = tmp_path / "turned.jpg"
    gradient(64, 64).save(path, exif=exif, quality=100)
    frame = dataclasses.replace(SQUARE, crop=1.0).read(path)
    assert frame[0, 0, 0] < 40 < 200 < frame[-1, 0, 0]


def test_impossible_descriptions_are_refused() -> None:
    for changes in (
        {"crop": 0.0},
        {"interpolation": "nearest-ish"},
        {"mean": (0.5,)},
        {"height": 0},
    ):
        with pytest.raises(ValueError, match=r"."):
            dataclasses.replace(SQUARE, **changes)  # type: ignore[arg-type]


def test_a_damaged_or_missing_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(InputError, match="no image at"):
        SQUARE.read(path)
    gradient(64, 64).save(path)
    for size in (0, 10, 100):
        path.write_bytes(path.read_bytes()[:size] if size else b"")
        with pytest.raises(InputError, match="not a readable image"):
            SQUARE.read(path)
        gradient(64, 64).save(path)
