"""The model used: classifies a handwritten digit and draws the patches that the model sees.

    python -m vit.example_usage

Expected: a digit that the model has not been trained on, its class, and
    `build/example_patches.png`. The weights are
trained on first use, in about 20 s, and kept in `build/vit_digits.safetensors`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vision_transformer import VisionTransformer

from .checkpoints import encode_checkpoint, read_checkpoint
from .datasets import digits
from .train import DEFAULT_MODEL, normalise, train_digits
from .variants import find_variant

WEIGHTS = Path("build/vit_digits.safetensors")


def build_model() -> VisionTransformer:
    """The constructor with every argument named: a ViT of four blocks for 8x8 grey images."""
    return VisionTransformer(
        img_size=8,
        patch_size=4,
        in_channels=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        n_heads=4,
        mlp_ratio=4.0,
        qkv_bias=True,
    )


def load_or_train(weights: Path) -> VisionTransformer:
    """The model with the weights in this file, trained first if there is none."""
    if not weights.is_file():
        print(f"training {DEFAULT_MODEL} ...")
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(encode_checkpoint(train_digits(0, lambda done, total: None)))
    model = build_model()
    model.load_state_dict(read_checkpoint(weights).tensors)
    return model.eval()


def cut_patches(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 `[H, W, C]` -> `[patches, size, size, C]`, in the order that the model reads."""
    height, width, channels = image.shape
    grid = image.reshape(height // size, size, width // size, size, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, channels)


def draw(
    image: NDArray[np.uint8], patch_size: int, probabilities: NDArray[np.float32], out: Path
) -> None:
    """Saves a picture of the image, its patches and the model's answer."""
    from matplotlib.figure import Figure

    patches = cut_patches(image, patch_size)
    side = image.shape[1] // patch_size
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    grid = figure.add_gridspec(1, 3)
    whole, middle, answer = (figure.add_subfigure(grid[0, i]) for i in range(3))
    for part, title in ((whole, "image"), (middle, "patches"), (answer, "answer")):
        part.suptitle(title)
    axes = whole.subplots()
    axes.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    for index, cell in enumerate(middle.subplots(side, side).flat):
        cell.imshow(patches[index][:, :, 0], cmap="gray", vmin=0, vmax=255)
        cell.set_title(f"token {index + 1}", fontsize=8)
        cell.axis("off")
    bars = answer.subplots()
    bars.bar(range(len(probabilities)), probabilities)
    bars.set(xticks=range(len(probabilities)), xlabel="class", ylabel="probability", ylim=(0, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("build/example_patches.png"))
    parser.add_argument("--index", type=int, default=0, help="which held-back digit (default: 0)")
    arguments = parser.parse_args()
    preprocess = find_variant(DEFAULT_MODEL).preprocess
    data = digits("evaluation", preprocess).subset([arguments.index])
    model = load_or_train(arguments.weights)
    image = next(data.batches(1))
    with torch.inference_mode():
        probabilities = model(normalise(image, preprocess)).softmax(dim=-1)[0].numpy()
    best, labels = int(probabilities.argmax()), data.label_list() or []
    print(f"the model says {best} (probability {probabilities[best]:.3f}), the label {labels[0]}")
    draw(image[0], model.config.patch_size, probabilities, arguments.out)
    print(f"its patches are drawn in {arguments.out}")


if __name__ == "__main__":
    main()
