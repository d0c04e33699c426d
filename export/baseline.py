"""Stages that all precisions share: the reference, the optimised fp32 graph and its calibration."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration, collect, provenance_of
from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.calibration.samples import load_samples, save_samples
from vit_edge.calibration.table import CalibrationTable, Origin, read_table
from vit_edge.runtime.errors import VitEdgeError
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.schema import encode
from vit_edge.runtime.tools.images import ImageSet

from .accuracy import Reference
from .cache import Hashed, Stage, StageCache, content_digest
from .collapse import find_export_faults
from .foreign.rebuild import onnx_oracle, rebuild, require_same, require_vit
from .foreign.source import ForeignSource, prepare_again
from .onnx_export import export_onnx
from .outputs import join_outputs
from .passes import PassReport, optimise
from .plan import Plan
from .precision import find_precision, tensors_to_observe
from .progress import Update
from .reference import Oracle, load_outputs, load_reference, save_reference, vit_oracle
from .sources import ModelSource, load_model, make_weights

Images = Hashed[ImageSet]


def hash_images(images: ImageSet) -> Images:
    """Images that enter keys as their origin, positions and labels: none is decoded for it."""
    return Hashed(images, (images.origin, images.indices, images.label_list()))


@dataclass(frozen=True)
class MakeWeights(Stage[Path]):
    """Reads, trains or draws the weights."""

    source: Hashed[ModelSource]
    seed: int
    title_of = "weights"

    def run(self, folder: Path, update: Update) -> None:
        content = make_weights(self.source.value, self.seed, update)
        (folder / "model.safetensors").write_bytes(content)

    def load(self, folder: Path) -> Path:
        return folder / "model.safetensors"


@dataclass(frozen=True)
class CopyOnnxFile(Stage[Path]):
    """Reads the user's ONNX file, which stands where the weights do otherwise."""

    source: Hashed[ForeignSource]
    title_of = "ONNX file"

    def run(self, folder: Path, update: Update) -> None:
        ir.save(prepare_again(self.source.value), folder / "model.onnx")

    def load(self, folder: Path) -> Path:
        return folder / "model.onnx"


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
class ExportGraph(MakeGraph):
    """Exports the model from PyTorch and optimises it."""

    def make(self) -> tuple[ir.Model, Sequence[PassReport]]:
        model = export_onnx(load_model(self.original), self.preprocess, self.outputs[0].name)
        return model, optimise(model)


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


@dataclass(frozen=True)
class PyTorchReference(MakeReference):
    """Runs the model in PyTorch."""

    title_of = "PyTorch reference"

    def oracle(self) -> Oracle:
        return vit_oracle(load_model(self.original), self.preprocess)


@dataclass(frozen=True)
class OnnxReference(MakeReference):
    """Runs the user's ONNX file, as it came, in ONNX Runtime."""

    title_of = "ONNX reference"

    def oracle(self) -> Oracle:
        return onnx_oracle(ir.load(self.original), self.preprocess)


@dataclass(frozen=True)
class SavedReference:
    """Reference on the evaluation images, for the stages that compare a graph with it."""

    folder: Path
    images: Images

    def load(self) -> Reference:
        return load_reference(self.folder, self.images.value)

    def outputs(self) -> tuple[OutputSpec, ...]:
        """The outputs with their scales."""
        return load_outputs(self.folder)


@dataclass(frozen=True)
class CheckExport(Stage[None]):
    """Compares the optimised graph, to which every lowering is compared, with the reference.

    Raises VitEdgeError if its outputs differ.
    """

    graph: Path
    reference: SavedReference
    title_of = "export check"

    def run(self, folder: Path, update: Update) -> None:
        reference, images = self.reference.load(), self.reference.images.value
        graph = join_outputs(ir.load(self.graph), reference.outputs)
        faults = find_export_faults(graph, images, *reference.joined())
        if faults:
            raise VitEdgeError(
                f"the exported graph is wrong: {faults[0]}. This is a bug: report it"
            )

    def load(self, folder: Path) -> None:
        return None


@dataclass(frozen=True)
class CalibratedGraph:
    """The optimised graph, and the folder of what calibration observed of it."""

    inputs: Calibrate
    folder: Path

    @property
    def table_file(self) -> Path:
        return self.folder / "table.json"

    def read_table(self) -> CalibrationTable:
        return read_table(self.table_file)

    def load(self) -> tuple[ir.Model, Calibration]:
        """The graph and its calibration, which belongs to it. Raises InputError otherwise."""
        table, model = self.read_table(), ir.load(self.inputs.graph)
        images, origin = self.inputs.images.value, self.inputs.origin()
        table.require(provenance_of(model, images, self.inputs.method, origin))
        return model, Calibration(table, load_samples(self.folder))


@dataclass(frozen=True)
class Calibrate(Stage[CalibratedGraph]):
    """Observes the activations of the optimised graph; samples those of `tensors`."""

    original: Path
    graph: Path
    preprocess: Preprocess
    images: Images
    tensors: tuple[str, ...]
    method: str
    title_of = "calibration"

    def origin(self) -> Origin:
        """The weights and the preprocessing, by hash."""
        preprocess = hashlib.sha256(encode(self.preprocess).encode()).hexdigest()
        return Origin(content_digest(self.original.parent), preprocess)

    def run(self, folder: Path, update: Update) -> None:
        model, origin = ir.load(self.graph), self.origin()
        images = self.images.value
        calibration = collect(model, self.tensors, images, self.method, origin, update)
        (folder / "table.json").write_text(calibration.table.to_json())
        save_samples(folder, calibration.samples)

    def load(self, folder: Path) -> CalibratedGraph:
        return CalibratedGraph(self, folder)


@dataclass(frozen=True)
class Baseline:
    """Results that every precision builds on."""

    graph: Path
    reference: SavedReference
    calibrated: CalibratedGraph


def make_baseline(plan: Plan, cache: StageCache) -> Baseline:
    """Runs the stages from the source of the weights to the calibrated fp32 graph.

    Raises:
        InputError: if the model or the ONNX file cannot be used.
        VitEdgeError: if the exported graph computes something else than the model.
    """
    source, images = plan.source, hash_images(plan.data.evaluation)
    make_graph: type[MakeGraph]
    make_reference: type[MakeReference]
    if isinstance(source, ForeignSource):
        original = cache.run(CopyOnnxFile(Hashed(source, source.weights_key)))
        make_graph, make_reference = RebuildGraph, OnnxReference
    else:
        digest = (source.config, source.weights, source.weights_key, source.antialias)
        original = cache.run(MakeWeights(Hashed(source, digest), plan.seed))
        make_graph, make_reference = ExportGraph, PyTorchReference
    outputs, preprocess = source.outputs, source.preprocess
    graph = cache.run(make_graph(original, preprocess, outputs))
    folder = cache.run(make_reference(original, preprocess, outputs, images, plan.seed))
    reference = SavedReference(folder, images)
    cache.run(CheckExport(graph, reference))
    tensors = tensors_to_observe(ir.load(graph).graph, map(find_precision, plan.precisions))
    calibration = hash_images(plan.data.calibration)
    calibrated = cache.run(
        Calibrate(original, graph, preprocess, calibration, tensors, plan.method)
    )
    return Baseline(graph, reference, calibrated)


def read_passes(graph: Path) -> list[dict[str, object]]:
    """The reports of the passes that a graph of `MakeGraph` went through."""
    return list(json.loads((graph.parent / "passes.json").read_text()))
