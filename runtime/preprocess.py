"""The one description of how a picture becomes the model's input, and the one function that does
it.

Normalisation is not here: it is folded into the graph's patch embedding, so that training, export
and device cannot differ. `mean` and `std` are kept for the record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box")
CROP_MODES = ("center", "center_floor", "squash")
MODES = {1: "L", 3: "RGB"}
MIN_CROP = 0.05
_MAX_PIXELS = 1 << 27
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
            raise ValueError(f"crop mode {self.crop_mode!r} is none of {', '.join(CROP_MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}"
            )
        if not (0 < self.height <= 1 << 16 and 0 < self.width <= 1 << 16):
            raise ValueError(f"height {self.height} or width {self.width} is out of range")
        if not MIN_CROP <= self.crop <= 1:
            raise ValueError(f"crop {self.crop} is not between {MIN_CROP} and 1")
        if (
            self.channels not in MODES
            or len(self.mean) != self.channels
            or len(self.std) != self.channels
        ):
            raise ValueError(
                f"{self.channels} channels with {len(self.mean)} means and {len(self.std)} "
                "deviations: "
                "give 1 or 3 channels and a value for each"
            )
        if not all(abs(value) <= _MAX_MEAN for value in self.mean):
            raise ValueError(f"mean {self.mean} is not on the 0-1 scale")
        if not all(_STD_RANGE[0] <= deviation <= _STD_RANGE[1] for deviation in self.std):
            raise ValueError(f"std {self.std} is not positive and on the 0-1 scale")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels of what `__call__` returns."""
        return self.height, self.width, self.channels

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Turns a Pillow image of any size and mode into uint8 `[height, width, channels]`."""
        from PIL import Image

        if picture.mode.startswith("I;16"):  # Pillow's own conversion clips to white
            picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
        elif picture.mode in ("I", "F"):
            raise ValueError(f"mode {picture.mode} has no known range: save it with 8 or 16 bits")
        picture = picture.convert(MODES[self.channels])
        size = self._scaled(picture.width, picture.height)
        if size[0] * size[1] > _MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels are too long and thin")
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = self._offset(size[0] - self.width), self._offset(size[1] - self.height)
        picture = picture.crop((left, top, left + self.width, top + self.height))
        return np.asarray(picture, dtype=np.uint8).reshape(self.shape)

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop.

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

    def _offset(self, rest: int) -> int:
        """How much of `rest` pixels is cut off on the left or at the top."""
        return rest // 2 if self.crop_mode == "center_floor" else round(rest / 2)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Reads an image file into uint8 `[height, width, channels]`.

        Raises:
            InputError: if the file is missing or is not a readable image.
            BackendError: if Pillow is not installed.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise BackendError("reading image files needs Pillow: pip install pillow") from None
        try:
            with Image.open(path) as picture:
                return self(ImageOps.exif_transpose(picture))
        except FileNotFoundError:
            raise InputError(f"there is no image at {path}") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).replace(str(path), "it")
            raise InputError(
                f"{path} is not a readable image ({reason}): remove or replace it"
            ) from None
