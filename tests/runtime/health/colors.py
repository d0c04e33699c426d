"""Crops of scikit-learn's two photographs, and what may happen to a camera's images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import distortions as d

SIZE = 64


def crops(count: int, seed: int) -> np.ndarray:
    """Random crops, 40 to 100 % of a photograph's height, uint8 `[count, SIZE, SIZE, 3]`."""
    generator = np.random.default_rng(seed)
    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    frames = []
    for _ in range(count):
        picture = pictures[generator.integers(len(pictures))]
        side = int(min(picture.size) * generator.uniform(0.4, 1))
        left, top = (int(generator.integers(0, edge - side + 1)) for edge in picture.size)
        box = (left, top, left + side, top + side)
        frames.append(np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)))
    return np.stack(frames)


DRIFTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "brighter": (lambda x: d.scaled(x, 1.25), "images are brighter|black or white"),
    "darker": (lambda x: d.scaled(x, 0.75), "images are darker|less contrast"),
    "gamma": (lambda x: d.gamma(x, 1.5), "images are darker"),
    "blurred": (lambda x: d.blurred(x, 1), "blurred or enlarged"),
    "BGR": (d.swapped, "giving BGR"),
    "zoomed": (lambda x: d.zoomed(x, 2.5), "blurred or enlarged"),
    "grey": (d.grey, "the images are grey"),
    "noisy": (lambda x: d.noisy(x, 12), "noisier"),
    "barred": (lambda x: d.barred(x, 1 / 8), "black bars"),
    "frozen": (d.frozen, "frozen camera"),
}
"""By name: the distortion, and words of the verdict."""
