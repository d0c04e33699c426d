"""The one description of how an image becomes the model's input, and the one function that does it.

Images may be arrays from cameras with channels in any usual order, image files, or Pillow images of
every mode. Normalisation is not done here: it is folded into the graph's patch embedding, so that
training, export and device cannot differ. `mean` and `std` are kept for the record.
"""

from __future__ import annotations

import io
import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import BackendError, InputError, first_line, install_command

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Color:
    """An order of channels.

    Attributes:
        order: Positions of red, green and blue; a single one for grey. Alpha is not included: it is
            dropped, as in training (`convert("RGB")` in Pillow).
        channels: Number of channels, alpha included.
        raw: Pillow's name for this layout in memory.
    """

    order: tuple[int, ...]
    channels: int
    raw: str


COLORS = {
    "GRAY": Color((0,), 1, "L"),
    "RGB": Color((0, 1, 2), 3, "RGB"),
    "BGR": Color((2, 1, 0), 3, "BGR"),
    "RGBA": Color((0, 1, 2), 4, "RGBX"),
    "BGRA": Color((2, 1, 0), 4, "BGRX"),
}
"""The orders that `Preprocess` takes. OpenCV gives BGR."""

_DEFAULTS = {1: "GRAY", 3: "RGB", 4: "RGBA"}
"""Layout that is assumed for an array if none is given, by its number of channels."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""ITU-R BT.601 in 16 bits, as in Pillow's `convert("L")`."""


@dataclass(frozen=True)
class Pixels:
    """uint8 `[height, width, channels]` with the order of its channels."""

    array: NDArray[np.uint8]
    color: Color

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow gives them."""
        return self.array.shape[1], self.array.shape[0]

    def to_channels(self, channels: int) -> NDArray[np.uint8]:
        """Returns a new array `[height, width, channels]` in grey (1) or RGB (3), bit for bit as
        Pillow converts it.
        """
        order = self.color.order
        if order == tuple(range(channels)):
            return self.array[:, :, :channels].copy()
        result = np.empty((*self.array.shape[:2], channels), np.uint8)
        if len(order) > channels:
            luma = self.array[:, :, order].astype(np.uint32) @ _LUMA
            result[:, :, 0] = luma + (1 << 15) >> 16
            return result
        for channel in range(channels):
            result[:, :, channel] = self.array[:, :, order[channel % len(order)]]
        return result

    def to_pillow(self) -> Image.Image:
        """Returns an image of mode L or RGB. Raises BackendError if Pillow is not installed."""
        pillow = require_pillow("scaling frames")
        mode = "L" if len(self.color.order) == 1 else "RGB"
        data = np.ascontiguousarray(self.array)
        return pillow.frombuffer(mode, self.size, data, "raw", self.color.raw, 0, 1)  # type: ignore[no-any-return]


def check_pixels(frame: NDArray[Any], color: str | None) -> Pixels:
    """Checks an array with an image, such as a camera's, and returns its pixels.

    Args:
        frame: uint8 `[height, width]` or `[height, width, channels]`, of any size.
        color: A name in `COLORS`; None: grey, RGB or RGBA, by its number of channels.

    Raises:
        InputError: if it is anything else.
    """
    if frame.dtype != np.uint8:
        raise InputError(f"the frame is {frame.dtype}, not uint8: scale it to 0 to 255 first")
    array = frame[:, :, None] if frame.ndim == 2 else frame
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"the frame has shape {list(frame.shape)}, not [height, width] or [height, width, "
            "channels] with pixels in it: pass one frame at a time"
        )
    channels = array.shape[2]
    if color is None and channels not in _DEFAULTS:
        raise InputError(
            f"the frame has {channels} channels, not 1, 3 or 4: convert it first (YUV: OpenCV, "
            "cvtColor)"
        )
    known = find_color(_DEFAULTS[channels] if color is None else color)
    if channels != known.channels:
        raise InputError(f"the frame has {channels} channels, {color} has {known.channels}")
    return Pixels(array, known)


def find_color(name: str) -> Color:
    """Returns the channel order of that name. Raises InputError if there is none."""
    if name not in COLORS:
        raise InputError(f"unknown color {name!r}: choose from {', '.join(COLORS)}")
    return COLORS[name]


def require_pillow(purpose: str) -> Any:
    """Returns the module `PIL.Image`. Raises BackendError if it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise BackendError(f"{purpose} needs Pillow: {install_command('images')}") from None
    return Image


FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Decoders that may be used for a file: Pillow has forty more, some of which start programs."""

MAX_PIXELS = 1 << 27
"""Most pixels of an image: 134 million, 400 MB once decoded. More is a decompression bomb."""


def open_image(path: Path) -> Image.Image:
    """Decodes an image file, rotated by its EXIF orientation; the first picture of an animation.

    Raises:
        InputError: if the file is missing, is not a readable image, or is too large.
        BackendError: if Pillow is not installed.
    """
    require_pillow("reading image files")
    if not path.exists():
        raise InputError(f"there is no image at {path}")
    if not path.is_file():  # opening a pipe would hang
        raise InputError(f"{path} is not a file")
    return _decode(path, os.fspath(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decodes the bytes of an image file, as `open_image` does. `name` is for messages."""
    require_pillow("reading images")
    return _decode(io.BytesIO(data), name)


def _decode(source: Path | io.BytesIO, name: str) -> Image.Image:
    pillow = require_pillow("reading images")
    from PIL import ImageOps

    try:
        with pillow.open(source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS}")
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # what decoders raise on damaged bytes is documented nowhere
        # Pillow names a stream by its memory address, which would differ from run to run.
        reason = first_line(error).replace(repr(source), "it")
        reason = reason.replace(repr(name), "it").replace(name, "it")
        raise InputError(
            f"{name} is not a readable image ({reason}): remove or replace it"
        ) from None


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image to mode L or RGB, as training does: alpha is dropped.

    Raises:
        InputError: if it has no pixels, or a mode without a known range.
    """
    if not image.width * image.height:
        raise InputError(f"the image has {image.width}x{image.height} pixels")
    if image.mode in ("I", "F"):
        raise InputError(f"mode {image.mode} has no known range: save it with 8 or 16 bits")
    try:
        image.load()  # a file that the caller opened is decoded only now
        if image.mode.startswith("I;16"):  # Pillow's own conversion clips to white
            pillow = require_pillow("16 bits")
            image = pillow.fromarray((np.asarray(image) // 257).astype(np.uint8))
        elif image.mode == "P":  # via RGBA, because Pillow warns of transparent palettes
            image = image.convert("RGBA")
        return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # as above; or a mode that Pillow cannot convert
        raise InputError(
            f"an image of mode {image.mode} cannot be used ({first_line(error)}): save it as RGB"
        ) from None


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

    The image is scaled so that its central part `crop` (0 < crop <= 1) becomes the model's input.
    `crop_mode` "center" keeps the aspect ratio and fits the shorter side, as timm and torchvision
    do; "center_floor" does the same but, as transformers does, cuts the larger half of an odd
    margin off on the right and at the bottom; "squash" scales each side by itself, as transformers'
    ViT processor does. `mean` and `std` are on the 0-1 scale, one per channel.
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
        self, image: Image.Image | NDArray[Any], color: str | None = None
    ) -> NDArray[np.uint8]:
        """Turns one image of any size into the model's input.

        Args:
            image: An array, such as a camera's, uint8 `[height, width]` or `[height, width,
                channels]`; or a Pillow image of any mode. Alpha is dropped.
            color: Channel order of an array, a name in `runtime.preprocess.COLORS`: "BGR" for
                OpenCV's. None: grey, RGB or RGBA, by the number of channels.

        Returns:
            A frame, uint8 `[height, width, channels]`, which never shares memory with `image`.

        Raises:
            InputError: if `image` or `color` is anything else.
            BackendError: if an array has to be scaled and Pillow is not installed.
        """
        if isinstance(image, np.ndarray):
            pixels = check_pixels(image, color)
            if self._scaled(*pixels.size) == pixels.size:
                left, top = self._corner(*pixels.size)
                part = pixels.array[top : top + self.height, left : left + self.width]
                return replace(pixels, array=part).to_channels(self.channels)
            image = pixels.to_pillow()
        elif not _is_pillow(image):
            raise InputError(
                f"the image is of type {type(image).__name__}: pass a numpy array or a Pillow image"
            )
        elif color is not None:
            raise InputError("a Pillow image knows its colors: leave `color` out")
        return self._scale(to_mode(image, MODES[self.channels]))

    def _scale(self, image: Image.Image) -> NDArray[np.uint8]:
        """Scales and crops an image in the model's colors to uint8 `[height, width, channels]`."""
        from PIL import Image

        size = self._scaled(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = self._corner(*size)
        image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image, dtype=np.uint8).reshape(self.shape)

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """Reads an image file into uint8 `[height, width, channels]`, rotated by its EXIF
        orientation; the first picture of an animation.

        Raises:
            InputError: if the file is missing or is not a readable image.
            BackendError: if Pillow is not installed.
        """
        return self._named(open_image(Path(path)), os.fspath(path))

    def decode(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """Reads the bytes of an image file, as `read` does the file. `name` is for messages."""
        return self._named(decode_image(data, name), name)

    def _named(self, image: Image.Image, name: str) -> NDArray[np.uint8]:
        try:
            return self(image)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop. Raises InputError for more than `MAX_PIXELS`."""
        size = self._resized(width, height)
        if size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"{width}x{height} pixels are too long and thin: cut the image")
        return size

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the resize, never smaller than the model's.

        Source: timm `create_transform`, torchvision `Resize`, transformers
        `get_resize_output_image_size`: the shorter side is rounded down, and the longer one
        computed from it; timm rounds both to the nearest if the input is not square.
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
        """Left and top of the crop in a resized image."""
        return self._offset(width - self.width), self._offset(height - self.height)

    def _offset(self, rest: int) -> int:
        """Returns how many of `rest` pixels are cut off on the left or at the top."""
        return rest // 2 if self.crop_mode == "center_floor" else round(rest / 2)


def _is_pillow(image: object) -> bool:
    module = sys.modules.get("PIL.Image")  # the caller of such an image has imported it
    return module is not None and isinstance(image, module.Image)
