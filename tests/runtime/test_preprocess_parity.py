"""Photographs become the very pixels that the sources' own transforms make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from runtime.preprocess import Preprocess

from .. import oracles

NOTHING = ((0.0,) * 3, (1.0,) * 3)
BOXES = {"landscape": (0, 0, 640, 427), "portrait": (10, 0, 310, 410), "small": (0, 0, 150, 131)}


@pytest.fixture(params=BOXES)
def picture(request: pytest.FixtureRequest) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).crop(BOXES[request.param])


def ours(
    picture: Image.Image, size: tuple[int, int], crop: float, kind: str, mode: str
) -> np.ndarray:
    return Preprocess(*size, 3, crop, kind, *NOTHING, mode)(picture)


def pixels(tensor: Any) -> np.ndarray:
    return np.rint(np.asarray(tensor).transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [0.8, 0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (160, 224)])
def test_timm(picture: Image.Image, size: tuple[int, int], crop: float, mode: str) -> None:
    oracles.timm()
    from timm.data import create_transform

    transform = create_transform(
        (3, *size),
        crop_pct=crop,
        crop_mode=mode,
        interpolation="bicubic",
        mean=NOTHING[0],
        std=NOTHING[1],
    )
    np.testing.assert_array_equal(
        ours(picture, size, crop, "bicubic", mode), pixels(transform(picture))
    )


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (242, 224), (384, 384)])
def test_torchvision(picture: Image.Image, resize: int, crop: int) -> None:
    transforms = oracles.torchvision().transforms
    bilinear = transforms.InterpolationMode.BILINEAR
    steps = [transforms.Resize(resize, bilinear), transforms.CenterCrop(crop)]
    expected = np.asarray(transforms.Compose(steps)(picture))
    got = ours(picture, (crop, crop), crop / resize, "bilinear", "center")
    np.testing.assert_array_equal(got, expected)


def transformers_pixels(name: str, options: dict[str, Any], picture: Image.Image) -> np.ndarray:
    hub = oracles.transformers()
    processor = getattr(hub, f"{name}Pil", None) or getattr(hub, name)
    made = processor(do_normalize=False, **options)(picture, return_tensors="np")
    return pixels(made["pixel_values"][0])


@pytest.mark.parametrize(("edge", "crop"), [(256, 224), (224, 224), (97, 96)])
def test_transformers_with_a_crop(picture: Image.Image, edge: int, crop: int) -> None:
    options = {"size": {"shortest_edge": edge}, "crop_size": {"height": crop, "width": crop}}
    for name in ("BitImageProcessor", "CLIPImageProcessor"):
        expected = transformers_pixels(name, options, picture)
        got = ours(picture, (crop, crop), crop / edge, "bicubic", "center_floor")
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_transformers_squashing(picture: Image.Image, size: tuple[int, int]) -> None:
    options = {"size": {"height": size[0], "width": size[1]}}
    expected = transformers_pixels("ViTImageProcessor", options, picture)
    np.testing.assert_array_equal(ours(picture, size, 1.0, "bilinear", "squash"), expected)
