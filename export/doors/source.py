"""Protocol of what a door gives: facts about a model, and the stages that read it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.passes import PassReport
from vit_edge.export.progress import Update
from vit_edge.export.reference import Oracle, save_reference
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet

Images = Hashed[ImageSet]


def hash_images(images: ImageSet) -> Images:
    """Images that enter keys as their origin, positions and labels: none is decoded for it."""
    return Hashed(images, (images.origin, images.indices, images.label_list()))


def refuse_options(options: Mapping[str, object], why: str) -> None:
    """Raises InputError, which names them and ends with `why`, for options that are not None."""
    present = [name for name, value in options.items() if value is not None]
    if present:
        raise InputError(f"{', '.join(present)}: {why}")


@dataclass(frozen=True)
class MakeGraph(Stage[Path]):
    """Base of the stages that make the optimised fp32 graph of the weights or of an ONNX file."""

    original: Path
    preprocess: Preprocess
    outputs: tuple[OutputSpec, ...]
    title_of = "ONNX graph"

    @abstractmethod
    def make(self) -> tuple[ir.Model, Sequence[PassReport]]:
        """The graph, and the passes that it went through."""

    def run(self, folder: Path, update: Update) -> None:
        model, passes = self.make()
        save_onnx(model, folder / "model.onnx")
        (folder / "passes.json").write_text(json.dumps([asdict(p) for p in passes]))

    def load(self, folder: Path) -> Path:
        return folder / "model.onnx"


@dataclass(frozen=True)
class MakeReference(Stage[Path]):
    """Base of the stages that compute the outputs that everything is measured against."""

    original: Path
    preprocess: Preprocess
    outputs: tuple[OutputSpec, ...]
    images: Images
    seed: int

    @abstractmethod
    def oracle(self) -> Oracle:
        """The model that is right by definition."""

    def run(self, folder: Path, update: Update) -> None:
        images = self.images.value
        save_reference(folder, self.oracle(), self.outputs, images, self.seed, update)

    def load(self, folder: Path) -> Path:
        return folder


class Source(Protocol):
    """A model that came through a door.

    Its three stages are cached by what they read: the original (weights, or an ONNX file), the
    optimised fp32 graph made of it, and the outputs of the oracle on the evaluation images, to
    which all graphs are compared.
    """

    @property
    def name(self) -> str:
        """The bundle's name."""

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The outputs that are exported."""

    @property
    def classes(self) -> int:
        """Classes of the output that gives each image a class; 0 where none does."""

    @property
    def preprocess(self) -> Preprocess:
        """The frames that the model takes."""

    @property
    def data(self) -> str:
        """The data set that is used where none is named."""

    @property
    def weights(self) -> str:
        """The origin of the weights, in words."""

    @property
    def weights_key(self) -> str:
        """SHA-256 of the weights, in hex."""

    @property
    def random(self) -> bool:
        """True for random weights, whose classes mean nothing."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, where the source knows them."""

    @property
    def inferred(self) -> str:
        """Facts that were read from the weights, in words."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """Facts that nothing said, in words."""

    @property
    def notes(self) -> tuple[str, ...]:
        """More for the user to read before the work starts."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Facts for the manifest."""

    @property
    def oracle(self) -> str:
        """Name of the reference that everything is measured against."""

    def original_stage(self, seed: int) -> Stage[Path]:
        """The stage that makes the original."""

    def graph_stage(self, original: Path) -> Stage[Path]:
        """The stage that makes the optimised fp32 graph."""

    def reference_stage(self, original: Path, images: Images, seed: int) -> Stage[Path]:
        """The stage that runs the oracle over the evaluation images."""
