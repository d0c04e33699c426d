"""Stages that read a foreign ONNX file: its copy, its graph as ours, its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.doors.source import MakeGraph, MakeReference
from vit_edge.export.passes import PassReport, optimise
from vit_edge.export.progress import Update
from vit_edge.export.reference import Oracle

from .rebuild import onnx_oracle, rebuild, require_same, require_vit


class OnnxOriginal(Protocol):
    """An ONNX file that is read once more when its stage runs."""

    def read_again(self) -> ir.Model:
        """Returns the graph. Raises InputError if the file was changed since it was found."""


@dataclass(frozen=True)
class CopyOnnxFile(Stage[Path]):
    """Reads the user's ONNX file, which stands where the weights do otherwise."""

    source: Hashed[OnnxOriginal]
    title_of = "ONNX file"

    def run(self, folder: Path, update: Update) -> None:
        save_onnx(self.source.value.read_again(), folder / "model.onnx")

    def load(self, folder: Path) -> Path:
        return folder / "model.onnx"


@dataclass(frozen=True)
class RebuildGraph(MakeGraph):
    """Rewrites an ONNX file to the graph that our own exporter would write, and optimises it."""

    def make(self) -> tuple[ir.Model, Sequence[PassReport]]:
        model, before = ir.load(self.original), ir.load(self.original)
        names = [output.name for output in self.outputs]
        passes = (*rebuild(model, self.preprocess, names), *optimise(model))
        require_vit(model)
        require_same(before, model, self.preprocess)
        return model, passes


@dataclass(frozen=True)
class OnnxReference(MakeReference):
    """Runs the user's ONNX file, as it came, in ONNX Runtime."""

    title_of = "ONNX reference"

    def oracle(self) -> Oracle:
        return onnx_oracle(ir.load(self.original), self.preprocess)
