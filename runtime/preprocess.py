"""The one description of how a picture becomes the model's input, and the one function that does
it.

Normalisation is not here: it is folded into the graph's patch embedding, so that training, export
and device cannot differ. `mean` and `std` are kept for the record.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .pixels import MAX_PIXELS, check_pixels, decode_picture, open_picture, to_mode

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box")
CROP_MODES = ("center", "center_floor", "squash")
MODES = {1: "L", 3: "RGB"}
MIN_CROP = 0.05
_MAX_MEAN = 100.0
_STD_RANGE = (1e-3, 100.0)
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop and colour conversion.

    The picture is scaled so that the central `crop` (0 < crop <= 1) of it is the model's input:
    with `crop_mode` "center" its shorter side is, its shape kept, as timm and torchvision do;
    "center_floor" is the same but for an odd rest, whose larger half transformers leaves on the
    right and at the bottom; with "squash" each side is scaled by itself, as transformers' ViT
    processor does. `mean` and `std` are on the 0-1 scale, one per channel.
    """

    height: int
    width: int
    channels: int
    crop: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if self.crop_mode not in CROP_MODES:
            raise InputError(f"crop mode {self.crop_mode!r} is none of {', '.join(CROP_MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}"
            )
        if not (0 < self.height <= 1 << 16 and 0 < self.width <= 1 << 16):
            raise InputError(f"height {self.height} or width {self.width} is out of range")
        if not MIN_CROP <= self.crop <= 1:
            raise InputError(f"crop {self.crop} is not between {MIN_CROP} and 1")
        if (
            self.channels not in MODES
            or len(self.mean) != self.channels
            or len(self.std) != self.channels
        ):
            raise InputError(
                f"{self.channels} channels with {len(self.mean)} means and {len(self.std)} "
                "deviations: "
                "give 1 or 3 channels and a value for each"
            )
        if not all(abs(value) <= _MAX_MEAN for value in self.mean):
            raise InputError(f"mean {self.mean} is not on the 0-1 scale")
        if not all(_STD_RANGE[0] <= deviation <= _STD_RANGE[1] for deviation in self.std):
            raise InputError(f"std {self.std} is not positive and on the 0-1 scale")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels of what `__call__` returns."""
        return self.height, self.width, self.channels

    def __call__(
        self, picture: Image.Image | NDArray[Any], color: str | None = None
    ) -> NDArray[np.uint8]:
        """Turns one picture of any size into the model's input.

        Args:
            picture: A camera's frame, uint8 `[height, width]` or `[height, width, channels]`; or a
                Pillow image of any mode. Alpha is dropped.
            color: The order of a frame's channels, a name in `runtime.pixels.COLORS`: "BGR" for
                OpenCV's. None: grey, RGB or RGBA, as the number of channels says.

        Returns:
            uint8 `[height, width, channels]`, never the memory of `picture`.

        Raises:
            InputError: if `picture` or `color` is anything else.
            BackendError: if a frame has to be scaled and Pillow is not installed.
        """
        if isinstance(picture, np.ndarray):
            pixels = check_pixels(picture, color)
            if self._scaled(*pixels.size) == pixels.size:
                left, top = self._corner(*pixels.size)
                part = pixels.array[top : top + self.height, left : left + self.width]
                return replace(pixels, array=part).to_channels(self.channels)
            picture = pixels.to_pillow()
        elif not _is_pillow(picture):
            raise InputError(
                f"the picture is of type {type(picture).__name__}: pass a numpy array or a Pillow "
                "image"
            )
        elif color is not None:
            raise InputError("a Pillow image knows its colors: leave `color` out")
        return self._scale(to_mode(picture, MODES[self.channels]))

    def _scale(self, picture: Image.Image) -> NDArray[np.uint8]:
        """A picture in the model's colors -> uint8 `[height, width, channels]`."""
        from PIL import Image

        size = self._scaled(*picture.size)
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = self._corner(*size)
        picture = picture.crop((left, top, left + self.width, top + self.height))
        return np.asarray(picture, dtype=np.uint8).reshape(self.shape)

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """Reads an image file into uint8 `[height, width, channels]`: turned as its EXIF
        orientation says, of an animation the first frame.

        Raises:
            InputError: if the file is missing or is not a readable image.
            BackendError: if Pillow is not installed.
        """
        return self._named(open_picture(Path(path)), os.fspath(path))

    def decode(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """Reads the bytes of an image file, as `read` does the file. `name` is for messages."""
        return self._named(decode_picture(data, name), name)

    def _named(self, picture: Image.Image, name: str) -> NDArray[np.uint8]:
        try:
            return self(picture)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop. Raises InputError where these are beyond reason."""
        size = self._resized(width, height)
        if size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"{width}x{height} pixels are too long and thin: cut the picture")
        return size

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the resize, never smaller than the model's.

        Source: timm `create_transform`, torchvision `Resize`, transformers
        `get_resize_output_image_size`: the shorter side is rounded down, and the longer one made
        from it; timm rounds both to the nearest where the input is not square.
        """
        sides = (self.width, self.height)
        wide, high = (max(s, math.floor(s / self.crop + _ROUNDING)) for s in sides)
        if self.crop_mode == "squash":
            return wide, high
        if wide != high:
            scale = max(wide / width, high / height)
            return max(self.width, round(width * scale)), max(self.height, round(height * scale))
        if width <= height:
            return wide, int(wide * height / width)
        return int(high * width / height), high

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the crop in a resized picture."""
        return self._offset(width - self.width), self._offset(height - self.height)

    def _offset(self, rest: int) -> int:
        """Returns how many of `rest` pixels are cut off on the left or at the top."""
        return rest // 2 if self.crop_mode == "center_floor" else round(rest / 2)


def _is_pillow(picture: object) -> bool:
    module = sys.modules.get("PIL.Image")  # who has such an image has imported it
    return module is not None and isinstance(picture, module.Image)
