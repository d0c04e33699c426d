"""The door of ONNX files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vit_edge.export.foreign.source import USUAL, find_foreign_source
from vit_edge.runtime.errors import InputError
from vit_edge.vit.hints import HALF

from . import has_own_images
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest


def find_source(request: ExportRequest) -> Source:
    """Returns the file as a source.

    A trial without images of the user's assumes a normalisation that nobody says, and says so; with
    images it is asked for.

    Raises:
        InputError: as `find_foreign_source`.
    """
    beside = {"MODEL": request.model, "--weights": request.weights, "--config": request.config}
    named = [name for name, value in beside.items() if value is not None]
    if named:
        raise InputError(f"--onnx brings its own model: leave out {', '.join(named)}")
    assert request.onnx is not None
    mean, std = (None, None) if has_own_images(request) else (side[:1] for side in HALF)
    usual = replace(USUAL, mean=mean, std=std)
    return find_foreign_source(request.onnx, request.facts, request.outputs, usual)
