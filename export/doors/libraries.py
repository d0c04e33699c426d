"""The optional libraries of models: imported when their door is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from vit_edge.runtime.errors import InputError, first_line, install_command


def import_library(name: str, door: str) -> Any:
    """Imports a library; the extra that installs it has the same name.

    Raises:
        InputError: if it is not installed, or does not load beside this PyTorch.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{door} needs {error.name}: {install_command(name)}") from None
    except Exception as error:  # torchvision built for another PyTorch fails with a RuntimeError
        raise InputError(
            f"{name} does not load here ({first_line(error)}): install the versions of {name}, "
            "torchvision and torch that belong together"
        ) from None


@contextmanager
def random_weights(seed: int) -> Iterator[None]:
    """Draws the same random weights each time, and leaves PyTorch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def unreachable(name: str, error: Exception) -> InputError:
    """Makes the error of pretrained weights that cannot be had."""
    return InputError(
        f"the weights of {name} cannot be fetched ({first_line(error)}): check the name and the "
        "network, give them as --weights FILE, or --weights random to measure speed alone"
    )
