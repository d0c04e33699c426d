"""From a picture's bytes to what the model's forward pass takes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_edge.runtime.preprocess import Preprocess


def normalise(images: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """uint8 `[N, H, W, C]` -> float32 `[N, C, H, W]`, normalised as the model wants it."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    return (scaled - mean) / std
