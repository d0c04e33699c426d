"""The door of our own ViT: by variant or checkpoint, and the stages that read its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir

from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.foreign.image_input import ask_for_normalisation
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import PassReport, optimise
from vit_edge.export.progress import Update
from vit_edge.export.reference import Oracle, vit_oracle
from vit_edge.runtime.errors import InputError
from vit_edge.vit.checkpoints import build_model, read_checkpoint
from vit_edge.vit.vision_transformer import VisionTransformer

from . import has_own_images
from .source import MakeGraph, MakeReference, Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

TRAINED = "trained here"
"""The origin of the default model's weights."""


def find_source(request: ExportRequest) -> Source:
    """Returns our own ViT.

    Raises:
        InputError: as `find_model_source`; and if the user has images, but nothing says
            their normalisation: weights of one size are trained with one or another.
    """
    from .own_weights import find_model_source

    assert request.model is None or isinstance(request.model, str)
    asked = (request.model, request.weights, request.config, request.facts, request.outputs)
    source = find_model_source(*asked)
    guess = f"(as {source.name})"
    guessed = [t for t in source.assumed if t.startswith(("mean ", "std ")) and t.endswith(guess)]
    if guessed and request.model is None and has_own_images(request):
        raise InputError(f"{ask_for_normalisation()}. Or name the MODEL that the weights are of")
    return source


class WeightsMaker(Protocol):
    """A model whose weights can be had."""

    def make_weights(self, seed: int, update: Update) -> bytes:
        """Returns the weights as safetensors: read, trained or random."""


def load_model(path: Path) -> VisionTransformer:
    """A model from a file that `MakeWeights` wrote."""
    checkpoint = read_checkpoint(path)
    assert checkpoint.config is not None
    return build_model(checkpoint.config, checkpoint.tensors, path.name)


@dataclass(frozen=True)
class MakeWeights(Stage[Path]):
    """Reads, trains or draws the weights."""

    source: Hashed[WeightsMaker]
    seed: int
    title_of = "weights"

    def run(self, folder: Path, update: Update) -> None:
        content = self.source.value.make_weights(self.seed, update)
        (folder / "model.safetensors").write_bytes(content)

    def load(self, folder: Path) -> Path:
        return folder / "model.safetensors"


@dataclass(frozen=True)
class ExportGraph(MakeGraph):
    """Exports the model from PyTorch and optimises it."""

    def make(self) -> tuple[ir.Model, Sequence[PassReport]]:
        model = export_onnx(load_model(self.original), self.preprocess, self.outputs[0].name)
        return model, optimise(model)


@dataclass(frozen=True)
class PyTorchReference(MakeReference):
    """Runs the model in PyTorch."""

    title_of = "PyTorch reference"

    def oracle(self) -> Oracle:
        return vit_oracle(load_model(self.original), self.preprocess)
