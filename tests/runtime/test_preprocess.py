from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.errors import BackendError, InputError
from vit_edge.runtime.preprocess import COLORS, Preprocess

HALF = (0.5, 0.5, 0.5)
SQUARE = Preprocess(224, 224, 3, 0.875, "bicubic", HALF, HALF)
GREY = Preprocess(224, 224, 1, 0.875, "bicubic", HALF[:1], HALF[:1])


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def in_order(rgb: np.ndarray, color: str) -> np.ndarray:
    """RGB pixels as a camera with that order of channels gives them, with noise for alpha."""
    if color == "GRAY":
        return np.asarray(Image.fromarray(rgb).convert("L"))
    order = [0, 1, 2] if color.startswith("RGB") else [2, 1, 0]
    alpha = noise(*rgb.shape[:2], len(color) - 3)
    return np.concatenate([rgb[:, :, order], alpha], axis=2)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (224, 224), (50, 30), (1, 1)])
def test_any_picture_becomes_the_models_shape(size: tuple[int, int]) -> None:
    frame = SQUARE(gradient(*size))
    assert frame.shape == (224, 224, 3)
    assert frame.dtype == np.uint8


def test_a_picture_of_the_right_size_is_untouched() -> None:
    exact = dataclasses.replace(SQUARE, crop=1.0)
    picture = gradient(224, 224)
    np.testing.assert_array_equal(exact(picture), np.asarray(picture))


@pytest.mark.parametrize("size", [(256, 256), (256, 300), (99, 80)])
@pytest.mark.parametrize("preprocess", [SQUARE, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("color", COLORS)
def test_a_cameras_frame_is_the_same_as_a_file_of_its_pixels(
    color: str, preprocess: Preprocess, size: tuple[int, int], tmp_path: Path
) -> None:
    """At 256 x 256 and 256 x 300 nothing is scaled, and numpy does it alone."""
    rgb = noise(*size, 3)
    path = tmp_path / "same.png"
    Image.fromarray(in_order(rgb, "GRAY") if color == "GRAY" else rgb).save(path)
    frame = preprocess(in_order(rgb, color), color=color)
    np.testing.assert_array_equal(frame, preprocess.read(path))
    assert frame.flags.c_contiguous


@pytest.mark.parametrize("preprocess", [SQUARE, GREY], ids=["rgb", "grey"])
def test_the_order_is_told_from_the_number_of_channels(preprocess: Preprocess) -> None:
    rgb = noise(100, 80, 3)
    for color in ("RGB", "RGBA", "GRAY"):
        pixels = in_order(rgb, color)
        np.testing.assert_array_equal(preprocess(pixels), preprocess(pixels, color=color))
    grey = in_order(rgb, "GRAY")
    np.testing.assert_array_equal(preprocess(grey[:, :, None]), preprocess(grey))


def test_a_frame_may_be_a_view_and_is_not_kept() -> None:
    for size in (256, 300):  # without and with scaling
        whole = noise(size, 2 * size, 3)
        view = whole[::-1, ::2]
        frame = SQUARE(view)
        np.testing.assert_array_equal(frame, SQUARE(view.copy()))
        before = frame.copy()
        whole[:] = 0  # the camera's next frame, in the same memory
        np.testing.assert_array_equal(frame, before)


def test_pillow_is_needed_for_scaling_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SQUARE(noise(256, 256, 3))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image")
    np.testing.assert_array_equal(SQUARE(noise(256, 256, 3)), expected)
    with pytest.raises(BackendError, match=r"scaling frames needs Pillow: pip install"):
        SQUARE(noise(300, 299, 3))


@pytest.mark.parametrize(
    ("picture", "color", "named"),
    [
        (noise(9, 9, 3).astype(np.float32), None, "float32, not uint8"),
        (noise(9, 9).astype(np.uint16), None, "uint16, not uint8"),
        (noise(9, 9, 3).astype(object), None, "object, not uint8"),
        (noise(9), None, r"shape \[9\]"),
        (noise(2, 9, 9, 3), None, "one frame at a time"),
        (noise(0, 9, 3), None, r"shape \[0, 9, 3\]"),
        (noise(9, 0), None, r"shape \[9, 0\]"),
        (noise(9, 9, 2), None, "2 channels.* cvtColor"),
        (noise(9, 9, 0), None, r"shape \[9, 9, 0\]"),
        (noise(9, 9, 4), "BGR", "4 channels, BGR has 3"),
        (noise(9, 9), "RGB", "1 channels, RGB has 3"),
        (noise(9, 9, 3), "NV12", "unknown color 'NV12': choose from GRAY, RGB, BGR"),
        (noise(1, 20000, 3), None, "20000x1 pixels are too long and thin"),
        ([[1]], None, "of type list"),
        ("picture.png", None, "of type str"),
        (Image.new("RGB", (0, 5)), None, "0x5 pixels"),
        (Image.new("RGB", (20000, 1)), None, "too long and thin"),
        (Image.new("I", (9, 9)), None, "mode I has no known range"),
        (Image.new("F", (9, 9)), None, "mode F has no known range"),
        (Image.new("La", (9, 9)), None, "mode La cannot be used"),
        (Image.new("RGB", (9, 9)), "BGR", "leave `color` out"),
    ],
)
def test_what_is_no_picture_is_named(picture: object, color: str | None, named: str) -> None:
    with pytest.raises(InputError, match=named):
        SQUARE(picture, color)  # type: ignore[arg-type]


def test_impossible_descriptions_are_refused() -> None:
    for changes in (
        {"crop": 0.0},
        {"interpolation": "nearest-ish"},
        {"crop_mode": "left"},
        {"mean": (0.5,)},
        {"std": (0.0, 1.0, 1.0)},
        {"height": 0},
    ):
        with pytest.raises(InputError, match=r"."):
            dataclasses.replace(SQUARE, **changes)  # type: ignore[arg-type]
