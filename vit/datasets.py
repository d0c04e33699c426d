"""Labelled images that need no download: scikit-learn's handwritten digits, and crops of its two
photographs.

Each dataset has splits that share no pixel: "train" (digits only), "calibration" and "evaluation".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet, from_array

_SPLIT_SEED = 0
_DIGITS_MAX = 16
DIGITS_SPLITS = {
    "evaluation": slice(0, 600),
    "calibration": slice(600, 728),
    "train": slice(728, None),
}

SAMPLE_COUNTS = {"calibration": 128, "evaluation": 64}
_SAMPLE_BANDS = {"calibration": (0.0, 0.6), "evaluation": (0.6, 1.0)}
_MIN_CROP = 0.4


def digits(split: str, preprocess: Preprocess) -> ImageSet:
    """Loads the UCI handwritten digits (E. Alpaydin, C. Kaynak, 1998) that scikit-learn ships:
    1,797 of 8x8 pixels.

    Raises:
        InputError: if the model's input is not 8x8 with one channel.
    """
    from sklearn.datasets import load_digits

    if preprocess.shape != (8, 8, 1):
        raise InputError(
            f"digits are 8x8 pixels with one channel, the model takes {list(preprocess.shape)}"
        )
    data = load_digits()
    rows = np.random.default_rng(_SPLIT_SEED).permutation(len(data.target))[DIGITS_SPLITS[split]]
    frames = np.rint(data.images[rows, :, :, None] * (255 / _DIGITS_MAX)).astype(np.uint8)
    return from_array(f"scikit-learn digits ({split})", frames, data.target[rows].astype(np.int64))


def samples(split: str, preprocess: Preprocess) -> ImageSet:
    """Cuts random crops out of the photographs that scikit-learn ships, without labels.

    Calibration crops come from the left three fifths of each photograph and evaluation crops from
    the rest.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng([_SPLIT_SEED, len(split)])
    photographs: list[NDArray[np.uint8]] = load_sample_images().images
    crops = []
    for index in range(SAMPLE_COUNTS[split]):
        photograph = photographs[index % len(photographs)]
        start, stop = (int(share * photograph.shape[1]) for share in _SAMPLE_BANDS[split])
        band = photograph[:, start:stop]
        size = int(min(band.shape[:2]) * generator.uniform(_MIN_CROP, 1))
        top, left = (int(generator.integers(0, edge - size + 1)) for edge in band.shape[:2])
        crop = Image.fromarray(np.ascontiguousarray(band[top : top + size, left : left + size]))
        crops.append(preprocess(crop))
    return from_array(f"crops of scikit-learn's photographs ({split})", np.stack(crops), None)


DATASETS: dict[str, Callable[[str, Preprocess], ImageSet]] = {"digits": digits, "samples": samples}
