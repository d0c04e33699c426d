from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.preprocess import COLORS, check_pixels


def test_every_color_turns_to_the_same_grey_as_in_pillow() -> None:
    """All 16.8 million."""
    levels = np.arange(1 << 24, dtype=np.uint32).reshape(4096, 4096)
    rgb = np.stack([levels >> 16, levels >> 8, levels], axis=2).astype(np.uint8)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(check_pixels(rgb, "RGB").to_channels(1)[:, :, 0], expected)


@pytest.mark.parametrize("color", COLORS)
def test_pillow_and_numpy_read_the_channels_alike(color: str) -> None:
    shape = (13, 17, COLORS[color].channels)
    pixels = check_pixels(np.random.default_rng(0).integers(0, 256, shape, np.uint8), color)
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = np.asarray(pixels.to_pillow().convert(mode)).reshape(13, 17, channels)
        np.testing.assert_array_equal(pixels.to_channels(channels), image)
