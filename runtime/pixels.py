"""Images as people have them: frames of cameras with channels in any usual order, image files, and
Pillow's images of every mode.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
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
        order: Where red, green and blue are; one place for all where the picture is grey. Alpha
            belongs to none, and is dropped as training does (`convert("RGB")` in Pillow).
        channels: How many there are in all.
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
"""Layout that an array is taken for where nobody says, by its number of channels."""

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""ITU-R BT.601 in 16 bits, as Pillow's `convert("L")` has it."""


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
        """A new array `[height, width, channels]` in grey (1) or RGB (3), bit for bit as Pillow
        converts.
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
        """A Pillow image of mode L or RGB. Raises BackendError if Pillow is not installed."""
        image = require_pillow("scaling frames")
        mode = "L" if len(self.color.order) == 1 else "RGB"
        data = np.ascontiguousarray(self.array)
        return image.frombuffer(mode, self.size, data, "raw", self.color.raw, 0, 1)  # type: ignore[no-any-return]


def check_pixels(frame: NDArray[Any], color: str | None) -> Pixels:
    """A camera's frame, checked.

    Args:
        frame: uint8 `[height, width]` or `[height, width, channels]`, of any size.
        color: A name in `COLORS`; None: grey, RGB or RGBA, as its number of channels says.

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
    """The order of that name. Raises InputError if there is none."""
    if name not in COLORS:
        raise InputError(f"unknown color {name!r}: choose from {', '.join(COLORS)}")
    return COLORS[name]


def require_pillow(purpose: str) -> Any:
    """The module `PIL.Image`. Raises BackendError if it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise BackendError(f"{purpose} needs Pillow: {install_command('images')}") from None
    return Image


FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The decoders that a file may reach: Pillow has forty more, some of which start programs."""

MAX_PIXELS = 1 << 27
"""Of a picture: 134 million, 400 MB once decoded. More is a decompression bomb."""


def open_picture(path: Path) -> Image.Image:
    """Decodes an image file, turned as its EXIF orientation says; of an animation the first frame.

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


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decodes the bytes of an image file, which messages call `name`, as `open_picture` does."""
    require_pillow("reading images")
    return _decode(io.BytesIO(data), name)


def _decode(source: Path | io.BytesIO, name: str) -> Image.Image:
    image = require_pillow("reading images")
    from PIL import ImageOps

    try:
        with image.open(source, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels, at most {MAX_PIXELS}")
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # what decoders raise on damaged bytes is documented nowhere
        # Pillow names a stream by its place in memory, which would differ from run to run.
        reason = first_line(error).replace(repr(source), "it")
        reason = reason.replace(repr(name), "it").replace(name, "it")
        raise InputError(
            f"{name} is not a readable image ({reason}): remove or replace it"
        ) from None


def to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """The picture in mode L or RGB, as training has it: alpha is dropped.

    Raises:
        InputError: if it has no pixels, or a mode whose range nobody knows.
    """
    if not picture.width * picture.height:
        raise InputError(f"the picture has {picture.width}x{picture.height} pixels")
    if picture.mode in ("I", "F"):
        raise InputError(f"mode {picture.mode} has no known range: save it with 8 or 16 bits")
    try:
        picture.load()  # a file that the caller opened is decoded only now
        if picture.mode.startswith("I;16"):  # Pillow's own conversion clips to white
            image = require_pillow("16 bits")
            picture = image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
        elif picture.mode == "P":  # by way of RGBA, for Pillow warns of transparent palettes
            picture = picture.convert("RGBA")
        return picture if picture.mode == mode else picture.convert(mode)
    except Exception as error:  # as above; or a mode that Pillow converts to no other
        raise InputError(
            f"a picture of mode {picture.mode} cannot be used ({first_line(error)}): save it as RGB"
        ) from None
