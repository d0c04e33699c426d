"""Scale of each output: what its errors are relative to, which cannot vanish.

The spread over the evaluation images tells what difference matters. Where these are all alike, as
frames of a fixed camera, it says nothing; then images that differ as much as any do stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.outputs import BOXES, OutputSpec, image_centred, spread, unpack

VARIED = 8
"""Images that differ as much as any do."""
_ALIKE = 0.1
"""Part of their spread that a scale has at least."""
_RELATIVE_BOXES = 2.0
"""Coordinates up to this are relative to the image, others are in pixels."""


def varied_images(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Returns `VARIED` images uint8 `[N, *shape]`: black, white, and noise from coarse to fine."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    images = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]
    for number in range(VARIED - len(images)):
        cell = max(1, min(height, width) >> (number + 1))
        size = (-(-height // cell), -(-width // cell), channels)
        coarse = rng.integers(0, 256, size, dtype=np.uint8)
        fine = coarse.repeat(cell, axis=0).repeat(cell, axis=1)
        images.append(fine[:height, :width])
    return np.stack(images)


def find_scales(
    outputs: Sequence[OutputSpec],
    evaluation: NDArray[np.float32],
    varied: NDArray[np.float32],
    image_side: int,
) -> tuple[OutputSpec, ...]:
    """Returns the outputs with their scales.

    Args:
        outputs: What lies in the packed values.
        evaluation: The reference's packed outputs of the evaluation images, `[N, width]`.
        varied: Those of `varied_images`; of several models with infinities there, these are left
            out.
        image_side: Of the longer side of an image, in pixels, for boxes.
    """
    own, others = unpack(evaluation, outputs), unpack(varied, outputs)
    scaled = []
    for output in outputs:
        values, beside = own[output.name], others[output.name]
        if output.kind == BOXES:
            largest = float(np.abs(values).max())
            scale = 1.0 if largest <= _RELATIVE_BOXES else float(image_side)
        else:
            about_mean = _about_mean(values)
            scale = max(about_mean, _ALIKE * _about_mean(beside)) or spread(values)
        scaled.append(replace(output, scale=scale))
    return tuple(scaled)


def _about_mean(values: NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    return float(np.sqrt((image_centred(finite) ** 2).mean())) if len(finite) > 1 else 0.0
