"""Doors: the ways a model comes in, by name, file or from memory. Each ends in a `Source`.

A row names its module, which is imported when the door is used: timm, torchvision and transformers
are optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vit_edge.runtime.manifest import MANIFEST
from vit_edge.vit.datasets import DATASETS

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

    from .source import Source

RANDOM = "random"
"""The word for random weights, in place of a file of weights."""

_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        example: The MODEL or option that opens it, for messages.
        takes: Tells whether a request is for this door; the first one that says so gets it.
        module: The module of this package with `find_source(request) -> Source`.
    """

    example: str
    takes: Callable[[ExportRequest], bool]
    module: str

    def find_source(self, request: ExportRequest) -> Source:
        """Reads the model. Raises InputError if it cannot be used."""
        source: Source = import_module(f".{self.module}", __name__).find_source(request)
        return source


def _named(prefix: str) -> Callable[[ExportRequest], bool]:
    return lambda request: isinstance(request.model, str) and request.model.startswith(prefix)


def is_saved_folder(path: Path) -> bool:
    """Tells whether a folder is one that `save_pretrained` wrote."""
    return (path / "config.json").is_file()


def is_bundle(path: Path) -> bool:
    """Tells whether a folder is a bundle."""
    return (path / MANIFEST).is_file()


def split_function(model: str) -> tuple[Path, str] | None:
    """Returns file and function of `FILE.py:FUNCTION`; None for anything else."""
    match = _FUNCTION.fullmatch(model)
    return None if match is None else (Path(match["file"]), match["function"])


def has_own_images(request: ExportRequest) -> bool:
    """Tells whether the user gives images: what comes of the built-in ones alone is a trial."""
    sets = (request.calibration, request.evaluation)
    return any(
        data is not None and not (isinstance(data, str) and data in DATASETS) for data in sets
    )


DOORS: dict[str, Door] = {
    "onnx": Door("--onnx FILE", lambda r: r.onnx is not None, "onnx_file"),
    "module": Door(
        "export_model(MODULE, ...)",
        lambda r: r.model is not None and not isinstance(r.model, str),
        "module",
    ),
    "timm": Door("timm:NAME", _named("timm:"), "timm"),
    "torchvision": Door("torchvision:NAME", _named("torchvision:"), "torchvision"),
    "hf": Door(
        "hf:ID or hf:FOLDER",
        lambda r: _named("hf:")(r) or (isinstance(r.model, str) and is_saved_folder(Path(r.model))),
        "transformers",
    ),
    "bundle": Door(
        "a bundle",
        lambda r: isinstance(r.model, str) and is_bundle(Path(r.model)),
        "bundle",
    ),
    "function": Door(
        "FILE.py:FUNCTION",
        lambda r: isinstance(r.model, str) and split_function(r.model) is not None,
        "function",
    ),
    "own": Door("a named variant", lambda r: True, "own"),
}
"""In the order in which they are asked."""


def find_source(request: ExportRequest) -> Source:
    """Returns the model that a request is for.

    Raises:
        InputError: if it cannot be used, saying why and what to do.
    """
    door = next(door for door in DOORS.values() if door.takes(request))
    return door.find_source(request)
