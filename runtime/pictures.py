"""Picture files, and Pillow's images of every mode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError, first_line
from .pixels import require_pillow

if TYPE_CHECKING:
    from PIL import Image

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
    image = require_pillow("reading image files")
    from PIL import ImageOps

    if not path.exists():
        raise InputError(f"there is no image at {path}")
    if not path.is_file():  # opening a pipe would hang
        raise InputError(f"{path} is not a file")
    try:
        with image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels, at most {MAX_PIXELS}")
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # what decoders raise on damaged bytes is documented nowhere
        reason = first_line(error).replace(repr(os.fspath(path)), "it").replace(str(path), "it")
        raise InputError(
            f"{path} is not a readable image ({reason}): remove or replace it"
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
