"""Attention rollout of a small ViT that tells crops of scikit-learn's two photographs apart.

The crops are grey, so that colour alone does not give the class away. The left three fifths of the
photographs are trained on; the drawn parts are from the rest, which the model has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess

from .attention_rollout import attention_rollout
from .checkpoints import build_model, read_checkpoint
from .hints import ModelHints
from .preprocessing import find_preprocess, normalise
from .training.files import replace_file
from .training.recipe import RECIPES
from .training.run import TrainRequest, train_folder
from .vision_transformer import VisionTransformer

PHOTOGRAPHS = ("china", "flower")
ROLLOUT_WEIGHTS = Path("build/vit_photographs.safetensors")

_MODEL = "vit_test_patch8_32"
_SIZE = 64
_EPOCHS = 20
_BATCH = 32
_TRAINED_SHARE = 0.6  # of the width, from the left
_CROPS = {"train": 300, "held_back": 60}
_CROP_EDGES = (96, 256)
_DRAWN_EDGE = 240
_DRAWN_TOPS = (0.1, 0.9)  # of the height that is left over
_BRIGHTEST = 4.0  # times the mean: one patch far above the others must not hide them


@dataclass(frozen=True)
class Part:
    """A square of a photograph, with the photograph's name."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode, with its preprocessing and the names of its classes."""

    model: VisionTransformer
    preprocess: Preprocess
    labels: tuple[str, ...]


def load_or_train(weights: Path) -> TrainedModel:
    """Reads the model in this file; the example's own is trained first where it is missing.

    Raises:
        InputError: if the file is missing or was not written by `vit.train`.
    """
    if weights == ROLLOUT_WEIGHTS and not weights.is_file():
        train(weights)
    checkpoint = read_checkpoint(weights)
    config, hints = checkpoint.config, checkpoint.hints
    labels = hints.labels or ()
    if config is None or hints.mean is None or len(labels) != config.num_classes:
        raise InputError(f"{weights} has no class names and preprocessing: `vit.train` writes them")
    preprocess, _ = find_preprocess(ModelHints(), hints, config)
    model = build_model(config, checkpoint.tensors, weights.name)
    return TrainedModel(model, preprocess, labels)


def train(out: Path) -> None:
    """Cuts crops and trains on them like on any folder: about 30 s on one core."""
    folder = out.parent / "photographs"
    for split in _CROPS:
        write_crops(folder / split, split)
    recipe = replace(RECIPES["from scratch"], epochs=_EPOCHS, batch=_BATCH)
    request = TrainRequest(
        model=_MODEL,
        data=folder / "train",
        evaluation=folder / "held_back",
        weights=None,
        image_size=_SIZE,
        augmentation="photographs",
        recipe=recipe,
        seed=0,
        out=out,
    )
    train_folder(request)


def write_crops(folder: Path, split: str) -> None:
    """Writes grey crops `<photograph>/<number>.png` of random sizes and places in the split's part
    of the photographs.
    """
    for name in PHOTOGRAPHS:
        band = cut_band(name, split)
        generator = np.random.default_rng(0)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(_CROPS[split]):
            edge = int(generator.integers(*_CROP_EDGES))
            left, top = (int(generator.integers(0, size - edge + 1)) for size in band.size)
            crop = band.crop((left, top, left + edge, top + edge))
            crop.resize((_SIZE, _SIZE)).save(folder / name / f"{index:03}.png")


def cut_band(name: str, split: str) -> Image.Image:
    """Cuts the part of a photograph to train on, or the part that is held back, in grey."""
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image(f"{name}.jpg")).convert("L")
    border = int(_TRAINED_SHARE * photograph.width)
    left, right = (0, border) if split == "train" else (border, photograph.width)
    return photograph.crop((left, 0, right, photograph.height))


def held_back_parts() -> list[Part]:
    """Cuts large squares out of the held-back parts, to draw."""
    parts = []
    for name in PHOTOGRAPHS:
        band = cut_band(name, "held_back")
        for share in _DRAWN_TOPS:
            top = int(share * (band.height - _DRAWN_EDGE))
            parts.append(Part(name, band.crop((0, top, _DRAWN_EDGE, top + _DRAWN_EDGE))))
    return parts


def draw_rollout(trained: TrainedModel, parts: list[Part], out: Path) -> None:
    """Saves the parts as a PNG, each with the share of its patches in the class token.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    frames = np.stack([trained.preprocess(part.image) for part in parts])
    inputs = normalise(frames, trained.preprocess)
    rollout = attention_rollout(trained.model, inputs)
    with torch.inference_mode():
        probabilities = trained.model(inputs).softmax(dim=-1)
    # 1: as much as if the class token gathered from all patches alike.
    gain = (rollout / rollout.mean(dim=(1, 2), keepdim=True)).numpy()
    figure = Figure(figsize=(2.6 * len(parts), 5.8), layout="constrained")
    figure.suptitle("what the class token gathers from each patch (attention rollout)")
    cells = figure.subplots(2, len(parts), squeeze=False)
    for column, part in enumerate(parts):
        probability, index = (float(v) for v in probabilities[column].max(dim=0))
        label = trained.labels[int(index)]
        cells[0, column].set_title(f"{part.name}, held back\nclass: {label} ({probability:.2f})")
        for cell in cells[:, column]:
            cell.imshow(part.image, cmap="gray", vmin=0, vmax=255)
        heat_map = cells[1, column].imshow(
            stretch(gain[column], part.image.size),
            cmap="inferno",
            vmin=0,
            vmax=_BRIGHTEST,
            alpha=0.65,
        )
    for cell in cells.flat:
        cell.axis("off")
    figure.colorbar(heat_map, ax=cells[1, :], label="times the mean", shrink=0.8, extend="max")
    with replace_file(out) as stream:
        figure.savefig(stream, format="png", dpi=110)


def stretch(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes float32 `[rows, columns]` smoothly; `size` is width and height."""
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
