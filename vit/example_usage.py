"""Example of use: classifies a handwritten digit and draws the patches that the model sees; then
draws the attention rollout of a second model on photographs.

    python -m vit_edge.vit.example_usage

Expected: a digit that the model has not been trained on, its class, `build/example_digit.png` (the
digit itself), `build/example_patches.png` and `build/example_rollout.png`. Weights are trained on
first use, in about 20 and 30 s, and kept in `build/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vision_transformer import VisionTransformer
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.command_line import run_program
from vit_edge.runtime.tools.display import say

from . import checkpoints, example_rollout
from .datasets import digits
from .preprocessing import normalise
from .training.digits import DEFAULT_MODEL, DIGITS, train_digits
from .training.files import check_writable, replace_file
from .variants import find_variant

WEIGHTS = Path("build/vit_digits.safetensors")


def build_model() -> VisionTransformer:
    """Builds a ViT of four blocks for 8x8 grey images, every argument of the constructor named."""
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
    """Reads the model in this file, trained first if it is missing.

    Raises:
        InputError: if the file is of another model, damaged or, when missing, cannot be written.
    """
    model = build_model()
    if not weights.is_file():
        check_writable(weights)
        say(f"training {DEFAULT_MODEL} ...")
        trained = train_digits(0, lambda done, total: None)
        preprocess = find_variant(DEFAULT_MODEL).preprocess
        with replace_file(weights) as stream:
            stream.write(checkpoints.encode_checkpoint(trained, preprocess, DIGITS))
    checkpoint = checkpoints.read_checkpoint(weights)
    if checkpoint.config not in (None, model.config):
        raise InputError(f"{weights} is of another model: this example takes {DEFAULT_MODEL}")
    return checkpoints.build_model(model.config, checkpoint.tensors, weights.name)


def cut_patches(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cuts uint8 `[H, W, C]` into `[patches, size, size, C]`, in the model's order."""
    height, width, channels = frame.shape
    grid = frame.reshape(height // size, size, width // size, size, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, channels)


def draw(
    frame: NDArray[np.uint8], patch_size: int, probabilities: NDArray[np.float32], out: Path
) -> None:
    """Saves a PNG of the frame, its patches and the probabilities of the classes.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    patches = cut_patches(frame, patch_size)
    side = frame.shape[1] // patch_size
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    grid = figure.add_gridspec(1, 3)
    left, middle, right = (figure.add_subfigure(grid[0, i]) for i in range(3))
    for part, title in ((left, "frame"), (middle, "patches"), (right, "probabilities")):
        part.suptitle(title)
    axes = left.subplots()
    axes.imshow(frame[:, :, 0], cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    for index, cell in enumerate(middle.subplots(side, side).flat):
        cell.imshow(patches[index][:, :, 0], cmap="gray", vmin=0, vmax=255)
        cell.set_title(f"token {index + 1}", fontsize=8)
        cell.axis("off")
    bars = right.subplots()
    bars.bar(range(len(probabilities)), probabilities)
    bars.set(xticks=range(len(probabilities)), xlabel="class", ylabel="probability", ylim=(0, 1))
    with replace_file(out) as stream:
        figure.savefig(stream, format="png")


def classify(weights: Path, index: int, out: Path) -> None:
    """Prints the predicted class of one held-back digit and draws its patches.

    Raises:
        InputError: if there is no such digit, the weights do not fit or `out` cannot be written.
    """
    preprocess = find_variant(DEFAULT_MODEL).preprocess
    data = digits("evaluation", preprocess)
    if not 0 <= index < len(data):
        raise InputError(f"--index is {index}: held-back digits go from 0 to {len(data) - 1}")
    data = data.subset([index])
    model = load_or_train(weights)
    frames = next(data.batches(1))
    with torch.inference_mode():
        probabilities = model(normalise(frames, preprocess)).softmax(dim=-1)[0].numpy()
    best, labels = int(probabilities.argmax()), data.label_list() or []
    print(f"the model says {best} (probability {probabilities[best]:.3f}), the label {labels[0]}")
    draw(frames[0], model.config.patch_size, probabilities, out)
    digit = out.with_name("example_digit.png")
    with replace_file(digit) as stream:
        Image.fromarray(frames[0, :, :, 0]).save(stream, format="PNG")
    print(f"its patches are drawn in {out}, and itself in {digit}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vit_edge.vit.example_usage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help=f"of {DEFAULT_MODEL}")
    parser.add_argument("--out", type=Path, default=Path("build/example_patches.png"))
    parser.add_argument("--index", type=int, default=0, help="which held-back digit (default: 0)")
    parser.add_argument(
        "--rollout-weights",
        type=Path,
        default=example_rollout.ROLLOUT_WEIGHTS,
        help="any model that vit.train wrote",
    )
    parser.add_argument("--rollout-out", type=Path, default=Path("build/example_rollout.png"))
    return parser


def run(arguments: argparse.Namespace) -> None:
    for out in (arguments.out, arguments.rollout_out):
        check_writable(out)
    classify(arguments.weights, arguments.index, arguments.out)
    trained = example_rollout.load_or_train(arguments.rollout_weights)
    example_rollout.draw_rollout(trained, example_rollout.held_back_parts(), arguments.rollout_out)
    print(f"where a model looks in photographs is drawn in {arguments.rollout_out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 good, 2 bad input, 130 interrupted."""
    return run_program("vit.example_usage", lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
