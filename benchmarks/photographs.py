"""Writes labelled photographs for a linear probe: crops of scikit-image's, the class is which one.

    pip download --no-deps scikit-image==0.26.0 && unzip -q scikit_image-*.whl
    python -m benchmarks.photographs skimage/data photographs.npz

Small crops, enlarged, so that a class is not told by a glance: 1,200 of 18 photographs, flipped,
darker or lighter, with noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.command_line import run_program

NAMES = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png"),
    *("coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
)
SIDE, IMAGES = 224, 1_200


def crop(picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a random crop of the picture as uint8 `[224, 224, 3]`."""
    width, height = picture.size
    side = min(int(rng.integers(48, 160)), width, height)
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    small = int(rng.integers(24, 64))
    cut = picture.crop((x, y, x + side, y + side))
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for size in (small, SIDE):
        cut = cut.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(cut, np.float32) * rng.uniform(0.7, 1.2)
    noisy = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255)
    return noisy.astype(np.uint8)


def write(folder: Path, out: Path) -> None:
    """Writes `images` and `labels`. Raises InputError where a photograph is missing."""
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {missing[0]}: give skimage/data of scikit-image's wheel")
    pictures = [Image.open(folder / name).convert("RGB") for name in NAMES]
    rng = np.random.default_rng(0)
    labels = rng.integers(len(NAMES), size=IMAGES)
    images = [crop(pictures[label], rng) for label in labels]
    np.savez_compressed(out, images=np.stack(images), labels=labels)


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="an .npz file")
    arguments = parser.parse_args()
    return run_program("photographs", lambda: write(arguments.folder, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
