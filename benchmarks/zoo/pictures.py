"""Small sets of images for the zoo: crops of photographs, and structure that none of them has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.datasets import samples

CALIBRATION, EVALUATION = 48, 32


def write_images(folder: Path, size: int) -> tuple[Path, Path]:
    """Writes the calibration and the evaluation set of that size, once; returns their files."""
    paths = []
    for split, count in (("calibration", CALIBRATION), ("evaluation", EVALUATION)):
        path = folder / f"{split}-{size}.npz"
        paths.append(path)
        if not path.exists():
            np.savez_compressed(path, images=draw_images(split, count, size))
    return paths[0], paths[1]


def read_images(path: Path) -> NDArray[np.uint8]:
    """Reads a set, uint8 `[N, size, size, 3]`."""
    with np.load(path) as arrays:
        images: NDArray[np.uint8] = arrays["images"]
    return images


def draw_images(split: str, count: int, size: int) -> NDArray[np.uint8]:
    """Draws images of a split, "calibration" or "evaluation", half of them crops."""
    half, rng = (0.5,) * 3, np.random.default_rng([len(split), size])
    photographs = samples(split, Preprocess(size, size, 3, 1.0, "bicubic", half, half))
    frames = [next(photographs.subset(range(count // 2)).batches(count))]
    frames += [_structure(rng, size)[None] for _ in range(count - count // 2)]
    return np.concatenate(frames)


def _structure(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Patches of colour of a random grain, under a slope of light and noise."""
    grain = int(rng.choice([2, 4, 8, 16]))
    coarse = rng.integers(0, 256, (grain, grain, 3)).astype(np.float32)
    rows = np.arange(size) * grain // size
    light = rng.normal(0, 40) * np.linspace(-1, 1, size)[:, None, None]
    noise = rng.normal(0, 12, (size, size, 3))
    frame = coarse[rows][:, rows] + light + noise
    return np.clip(frame, 0, 255).astype(np.uint8)
