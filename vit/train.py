"""Trains or fine-tunes a model on a folder `<class>/<image>`, or the default model on digits.

    vit-edge train                                       # scikit-learn's digits, 20 s
    vit-edge train vit_tiny_patch16_224 --data flowers   # from scratch
    vit-edge train vit_base_patch16_224 --data flowers --weights base.safetensors

It is `python -m vit_edge.vit.train` too.

Without --eval a fifth of every class is held back for validation. An interrupted training resumes
when the same command is given again, with the same outcome. Beside the weights lies a plot of
losses and accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.command_line import run_program
from vit_edge.runtime.tools.display import percent, say

from .checkpoints import encode_checkpoint
from .command import DEFAULT_AUGMENTATION, add_train_arguments
from .datasets import digits
from .training.augment import AUGMENTATIONS
from .training.digits import DEFAULT_MODEL, DIGITS, top1, train_digits
from .training.files import check_writable, replace_file
from .training.recipe import RECIPES
from .training.run import TrainRequest, train_folder
from .variants import VARIANTS, find_variant

_ONLY_WITH_DATA = (
    "eval", "weights", "checkpoint_key", "epochs", "batch", "learning_rate", "image_size",
    "augment",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Makes the command line of the training."""
    parser = argparse.ArgumentParser(
        prog="python -m vit_edge.vit.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_train_arguments(parser)
    return parser


def train_default(seed: int, out: Path) -> None:
    """Trains `vit_digits` by its own recipe, which takes too little time to be resumed."""
    check_writable(out)
    preprocess = find_variant(DEFAULT_MODEL).preprocess

    def show(done: int, total: int) -> None:
        if done % 10 == 0:
            say(f"training: epoch {done}/{total}")

    model = train_digits(seed, show)
    with replace_file(out) as stream:
        stream.write(encode_checkpoint(model, preprocess, DIGITS))
    accuracy = top1(model, digits("evaluation", preprocess), preprocess)
    print(f"top-1 on held-back digits: {percent(accuracy)}")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command line's request. Raises InputError if its options contradict each other."""
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}, it must not be negative")
    if arguments.augment not in (None, *AUGMENTATIONS):
        raise InputError(
            f"unknown --augment {arguments.augment!r}: choose from {', '.join(AUGMENTATIONS)}"
        )
    if arguments.data is None:
        _run_digits(arguments)
        return
    if arguments.model is None and arguments.weights is None:
        raise InputError(
            f"--data needs a MODEL to train, one of {', '.join(VARIANTS)}, or --weights"
        )
    recipe = RECIPES["from scratch" if arguments.weights is None else "fine-tune"]
    changes = {name: getattr(arguments, name) for name in ("epochs", "batch", "learning_rate")}
    name = f"{arguments.model or 'vit'}_{arguments.data.resolve().name}"
    request = TrainRequest(
        model=arguments.model,
        data=arguments.data,
        evaluation=arguments.eval,
        weights=arguments.weights,
        image_size=arguments.image_size,
        augmentation=arguments.augment or DEFAULT_AUGMENTATION,
        recipe=replace(recipe, **{k: v for k, v in changes.items() if v is not None}),
        seed=arguments.seed,
        out=arguments.out or Path(f"build/{name}.safetensors"),
        checkpoint_key=arguments.checkpoint_key,
    )
    train_folder(request)


def _run_digits(arguments: argparse.Namespace) -> None:
    useless = [name for name in _ONLY_WITH_DATA if getattr(arguments, name) is not None]
    if useless:
        option = useless[0].replace("_", "-")
        raise InputError(f"--{option} needs --data: the digits have a recipe of their own")
    if arguments.model not in (None, DEFAULT_MODEL):
        find_variant(arguments.model)
        raise InputError(f"{arguments.model} needs --data: the digits train {DEFAULT_MODEL} alone")
    train_default(arguments.seed, arguments.out or Path(f"build/{DEFAULT_MODEL}.safetensors"))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 good, 2 bad input, 130 interrupted."""
    return run_program("vit-edge train", lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
