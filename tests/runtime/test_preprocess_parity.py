"""Photographs become the very pixels that the sources' own transforms make of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from vit_edge.runtime.preprocess import INTERPOLATIONS, Preprocess

from .. import oracles
from ..pairs import all_pairs

NOTHING = ((0.0,) * 3, (1.0,) * 3)
BOXES = {
    "landscape": (0, 0, 640, 427),
    "portrait": (10, 0, 310, 410),
    "small": (0, 0, 150, 131),
    "tiny": (300, 200, 303, 205),
    "thin": (5, 100, 640, 113),
    "exact": (40, 30, 264, 254),
}


@cache
def photograph(name: str) -> Image.Image:
    whole = Image.fromarray(load_sample_image("china.jpg"))
    return whole.resize((1600, 1067)) if name == "huge" else whole.crop(BOXES[name])


PICTURES = [*BOXES, "huge"]


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Image.Image:
    return photograph(request.param)


def ours(
    picture: Image.Image, size: tuple[int, int], crop: float, kind: str, mode: str
) -> np.ndarray:
    """Of the picture, of the same pixels as a camera gives them, and of its grey form."""
    preprocess = Preprocess(*size, 3, crop, kind, *NOTHING, mode)
    frame = preprocess(picture)
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(preprocess(pixels), frame)
    np.testing.assert_array_equal(preprocess(pixels[:, :, ::-1], color="BGR"), frame)
    return frame


def pixels(tensor: Any) -> np.ndarray:
    return np.rint(np.asarray(tensor).transpose(1, 2, 0) * 255).astype(np.uint8)


def timm_transform(size: tuple[int, int], crop: float, kind: str, mode: str, channels: int) -> Any:
    oracles.timm()
    from timm.data import create_transform

    return create_transform(
        (channels, *size),
        crop_pct=crop,
        crop_mode=mode,
        interpolation=kind,
        mean=NOTHING[0][:channels],
        std=NOTHING[1][:channels],
    )


@pytest.mark.parametrize(
    ("picture", "sizes", "mode"),
    all_pairs(
        PICTURES,
        [((96, 96), crop) for crop in (0.8, 0.875, 0.9, 0.95, 1.0)]
        + [((224, 224), 0.875), ((97, 97), 0.9), ((160, 224), 0.95), ((224, 159), 0.875)],
        ["center", "squash"],
    ),
    indirect=["picture"],
)
def test_timm(picture: Image.Image, sizes: tuple[tuple[int, int], float], mode: str) -> None:
    size, crop = sizes
    transform = timm_transform(size, crop, "bicubic", mode, 3)
    np.testing.assert_array_equal(
        ours(picture, size, crop, "bicubic", mode), pixels(transform(picture))
    )


@pytest.mark.parametrize(
    ("picture", "kind", "mode"),
    all_pairs(PICTURES, INTERPOLATIONS, ["center", "squash"]),
    indirect=["picture"],
)
def test_timm_with_every_interpolation(picture: Image.Image, kind: str, mode: str) -> None:
    transform = timm_transform((96, 96), 0.9, kind, mode, 3)
    np.testing.assert_array_equal(
        ours(picture, (96, 96), 0.9, kind, mode), pixels(transform(picture))
    )


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_timm_in_grey(picture: Image.Image, kind: str) -> None:
    expected = pixels(timm_transform((96, 96), 0.9, kind, "center", 1)(picture.convert("L")))
    preprocess = Preprocess(96, 96, 1, 0.9, kind, (0.0,), (1.0,))
    np.testing.assert_array_equal(preprocess(picture), expected)
    np.testing.assert_array_equal(preprocess(np.asarray(picture)), expected)
    np.testing.assert_array_equal(preprocess(np.asarray(picture.convert("L"))), expected)


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
@pytest.mark.parametrize(
    ("kind", "resize", "crop"),
    [(kind, 256, 224) for kind in INTERPOLATIONS]
    + [("bilinear", *sizes) for sizes in [(242, 224), (384, 384), (235, 224), (97, 95)]],
)
def test_torchvision(picture: Image.Image, kind: str, resize: int, crop: int) -> None:
    transforms = oracles.torchvision().transforms
    interpolation = transforms.InterpolationMode[kind.upper()]
    steps = [transforms.Resize(resize, interpolation), transforms.CenterCrop(crop)]
    expected = np.asarray(transforms.Compose(steps)(picture))
    got = ours(picture, (crop, crop), crop / resize, kind, "center")
    np.testing.assert_array_equal(got, expected)


def transformers_pixels(name: str, options: dict[str, Any], picture: Image.Image) -> np.ndarray:
    hub = oracles.transformers()
    processor = getattr(hub, f"{name}Pil", None) or getattr(hub, name)
    made = processor(do_normalize=False, **options)(picture, return_tensors="np")
    return pixels(made["pixel_values"][0])


RESAMPLING = {kind: int(Image.Resampling[kind.upper()]) for kind in INTERPOLATIONS}


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
@pytest.mark.parametrize(
    ("kind", "edge", "crop"),
    [(kind, 256, 224) for kind in INTERPOLATIONS] + [("bicubic", 224, 224), ("bicubic", 97, 96)],
)
def test_transformers_with_a_crop(picture: Image.Image, kind: str, edge: int, crop: int) -> None:
    options = {
        "size": {"shortest_edge": edge},
        "crop_size": {"height": crop, "width": crop},
        "resample": RESAMPLING[kind],
    }
    for name in ("BitImageProcessor", "CLIPImageProcessor"):
        expected = transformers_pixels(name, options, picture)
        got = ours(picture, (crop, crop), crop / edge, kind, "center_floor")
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("picture", "size", "kind"),
    all_pairs(PICTURES, [(224, 224), (95, 160)], INTERPOLATIONS),
    indirect=["picture"],
)
def test_transformers_squashing(picture: Image.Image, size: tuple[int, int], kind: str) -> None:
    options = {"size": {"height": size[0], "width": size[1]}, "resample": RESAMPLING[kind]}
    expected = transformers_pixels("ViTImageProcessor", options, picture)
    np.testing.assert_array_equal(ours(picture, size, 1.0, kind, "squash"), expected)
