"""The command `vit-edge train`. Importing this module needs no extra; running the command does."""

from __future__ import annotations

import argparse
from pathlib import Path

from vit_edge.runtime.errors import VitEdgeError, install_command

from .training.recipe import RECIPES
from .variants import VARIANTS

DEFAULT_AUGMENTATION = "photographs"


def attach(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `train` to the command line."""
    text = "train or fine-tune a ViT on a folder of images, or the default one on digits"
    parser = parsers.add_parser(
        "train",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. An interrupted training resumes when the same "
        "command is given again.",
    )
    parser.set_defaults(run=run_train)
    add_train_arguments(parser)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a training."""
    scratch, tune = RECIPES["from scratch"], RECIPES["fine-tune"]
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help=f"one of {', '.join(VARIANTS)}")
    add("--data", type=Path, metavar="DIR", help="training images (default: digits)")
    add("--eval", type=Path, metavar="DIR", help="validation images (default: a fifth of --data)")
    add("--weights", metavar="W", help="fine-tune this checkpoint (kinds: see vit-edge export)")
    add(
        "--checkpoint-key", metavar="K", help="of several weights in W, those to take, as model_ema"
    )
    rates = f"{scratch.learning_rate:g}, or {tune.learning_rate:g} with --weights"
    add("--epochs", type=int, help=f"default: {scratch.epochs}, or {tune.epochs} with --weights")
    add("--batch", type=int, help=f"default: {scratch.batch}")
    add("--learning-rate", type=float, help=f"default: {rates}")
    add("--image-size", type=int, metavar="PIXELS", help="default: the model's")
    add(
        "--augment",
        metavar="A",
        help=f"changes of training images: photographs, symbols (no mirror images, no tight crops) "
        f"or none (default: {DEFAULT_AUGMENTATION})",
    )
    add("--seed", type=int, default=0, help="default: 0")
    add("--out", type=Path, metavar="FILE", help="default: build/MODEL[_FOLDER].safetensors")


def run_train(arguments: argparse.Namespace) -> int:
    """Exit status 0 if the weights were written."""
    try:
        from .train import run
    except ModuleNotFoundError as error:
        raise VitEdgeError(f"`train` needs {error.name}: {install_command('export')}") from None
    run(arguments)
    return 0
