"""Rendered characters: hard and numerous enough to tell a tenth of a point from noise.

Digits and letters (62 classes) of the fonts that matplotlib and Pillow ship, so that the pinned
packages decide what they look like; distorted at random by seeds. Capitals and small letters of one
shape (c, o, s, ...) can hardly be told apart once they are scaled: many images lie near a border
between two classes, where a quantiser's errors show.
"""

from __future__ import annotations

import functools
import hashlib
import math
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vit_edge.runtime.tools.images import ImageSet, from_array

CLASSES = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIDE = 24
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
COUNTS = {"train": 60_000, "calibration": 2_048, "evaluation": 24_000}
_SEEDS = {"train": 1, "calibration": 2, "evaluation": 4}
"""Methods were chosen on images of seed 3."""
_GLYPH = 64
"""Side of the picture that a glyph is drawn on, more than twice as large as it will be."""
_BATCH = 2_000


def characters(split: str, cache: Path) -> ImageSet:
    """Returns frames uint8 `[24, 24, 1]` with labels: splits of one distribution by other seeds."""
    sources = f"{Path(__file__).read_text()} {COUNTS[split]}"
    file = cache / f"characters-{split}-{hashlib.sha256(sources.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        images, labels = render(COUNTS[split], _SEEDS[split])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, images=images, labels=labels)
    with np.load(file) as arrays:
        return from_array(f"rendered characters ({split})", arrays["images"], arrays["labels"])


def render(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Renders `count` distorted characters; returns them and their classes."""
    generator = torch.Generator().manual_seed(seed)
    glyphs = _glyphs()
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    fonts = torch.randint(len(glyphs), (count,), generator=generator)
    batches = zip(fonts.split(_BATCH), labels.split(_BATCH), strict=True)
    images = [_photograph(_distort(glyphs[f, k], generator), generator) for f, k in batches]
    return torch.cat(images)[..., None].numpy(), labels.numpy()


@functools.cache
def _glyphs() -> Tensor:
    """Renders float32 `[fonts, classes, 64, 64]` from 0 to 1, each glyph centred on its own box."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), _GLYPH // 2) for name in FONTS]
    drawn = np.zeros((len(fonts), len(CLASSES), _GLYPH, _GLYPH), np.float32)
    for pictures, font in zip(drawn, fonts, strict=True):
        for picture, character in zip(pictures, CLASSES, strict=True):
            image = Image.new("L", (_GLYPH, _GLYPH))
            middle = (_GLYPH // 2, _GLYPH // 2)
            ImageDraw.Draw(image).text(middle, character, fill=255, font=font, anchor="mm")
            picture[:] = np.asarray(image, np.float32) / 255
    return torch.from_numpy(drawn)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _distort(glyphs: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, shears, stretches, shifts and bends `[N, 64, 64]` into `[N, 24, 24]`."""
    n = len(glyphs)
    angle, shear = (_uniform(-a, a, (n,), generator) for a in (math.radians(15), 0.2))
    across, down = (torch.exp(_uniform(-0.12, 0.15, (n,), generator)) * 0.66 for _ in range(2))
    shift = _uniform(-0.08, 0.08, (n, 2), generator)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [across * cos, across * (shear * cos - sin), down * sin, down * (shear * sin + cos)]
    affine = torch.cat([torch.stack(rows, 1).reshape(n, 2, 2), shift[:, :, None]], 2)
    grid = F.affine_grid(affine, [n, 1, SIDE, SIDE], align_corners=False)
    bends = 0.05 * torch.randn((n, 2, 4, 4), generator=generator)
    bends = F.interpolate(bends, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    grid = grid + bends.permute(0, 2, 3, 1)
    return F.grid_sample(glyphs[:, None], grid, align_corners=False)[:, 0]


def _photograph(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Turns shapes between 0 and 1 into uint8: blurred, partly hidden, on uneven paper, noisy."""
    n = len(shapes)
    each = (n, 1, 1)
    blurred = F.avg_pool2d(F.pad(shapes[:, None], (1, 1, 1, 1)), 3, stride=1)[:, 0]
    sharp = _uniform(0.0, 1.0, each, generator)
    shapes = sharp * shapes + (1 - sharp) * blurred
    shapes = shapes * ~_bars(n, generator)
    paper = F.interpolate(torch.rand((n, 1, 3, 3), generator=generator), SIDE, mode="bilinear")[
        :, 0
    ]
    contrast = _uniform(0.4, 0.9, each, generator)
    noise = _uniform(0.01, 0.07, each, generator) * torch.randn(shapes.shape, generator=generator)
    grey = 0.5 - contrast * (shapes - 0.5) + 0.3 * (paper - 0.5) + noise
    return torch.round(grey.clamp(0, 1) * 255).to(torch.uint8)


def _bars(n: int, generator: torch.Generator) -> Tensor:
    """Draws masks `[N, 24, 24]` of bars of up to three pixels that hide a third of the shapes."""
    start = torch.randint(0, SIDE, (n, 1), generator=generator)
    width = torch.randint(1, 4, (n, 1), generator=generator)
    width = width * (torch.rand((n, 1), generator=generator) < 1 / 3)
    position = torch.arange(SIDE)
    hidden = (position >= start) & (position < start + width)
    upright = torch.rand((n, 1, 1), generator=generator) < 0.5
    return torch.where(upright, hidden[:, None, :], hidden[:, :, None])
