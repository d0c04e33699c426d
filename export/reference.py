"""PyTorch's answers, which everything is measured against, and the golden samples that travel with
a bundle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.vision_transformer import VisionTransformer

from .accuracy import Reference
from .progress import Update

BATCH = 4
MAX_GOLDEN, MIN_GOLDEN, MAX_GOLDEN_BYTES = 256, 8, 8 << 20


def compute_reference(
    model: VisionTransformer, preprocess: Preprocess, images: ImageSet, update: Update
) -> NDArray[np.float32]:
    """fp32 logits `[N, classes]` of the model as PyTorch users run it: normalised floats in.

    Raises:
        InputError: if they are not finite.
    """
    parts: list[NDArray[np.float32]] = []
    for batch in images.batches(BATCH):
        with torch.inference_mode():
            parts.append(model(normalise(batch, preprocess)).numpy())
        update(min(len(parts) * BATCH, len(images)), len(images))
    return require_finite(np.concatenate(parts), "PyTorch's own")


def require_finite(logits: NDArray[np.float32], whose: str) -> NDArray[np.float32]:
    """Raises InputError for logits that are not finite."""
    if not np.isfinite(logits).all():
        raise InputError(f"{whose} logits are not finite: the weights are damaged")
    return logits


def choose_golden(images: ImageSet, seed: int) -> NDArray[np.int64]:
    """Positions of the golden samples: at most 256 and 8 MiB, in random order.

    The check at load takes the first few, which must not all be of one class.
    """
    size = int(next(images.batches(1)).nbytes)
    count = min(MAX_GOLDEN, max(MIN_GOLDEN, MAX_GOLDEN_BYTES // size))
    return np.random.default_rng(seed).permutation(len(images))[:count]


def save_reference(folder: Path, logits: NDArray[np.float32], images: ImageSet, seed: int) -> None:
    """Writes `logits.npy`, `golden.npz` and the golden samples' positions."""
    np.save(folder / "logits.npy", logits)
    positions = choose_golden(images, seed)
    np.save(folder / "positions.npy", positions)
    golden = images.subset(positions.tolist())
    arrays = {"images": next(golden.batches(len(golden))), "logits": logits[positions]}
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    np.savez_compressed(folder / "golden.npz", **arrays)  # type: ignore[arg-type]


def load_reference(folder: Path, images: ImageSet, output: str) -> Reference:
    """What `save_reference` wrote."""
    logits, positions = (np.load(folder / f"{name}.npy") for name in ("logits", "positions"))
    return Reference(logits, images.labels, positions, output)
