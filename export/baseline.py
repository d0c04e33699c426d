"""Stages that all precisions share: the reference, the optimised fp32 graph and its calibration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.collect import (
    Calibration,
    collect,
    load_samples,
    provenance_of,
    save_samples,
)
from vit_edge.calibration.observers import CalibrationTable, Origin, read_table
from vit_edge.runtime.errors import VitEdgeError
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.schema import encode

from .accuracy import Reference
from .cache import Stage, StageCache, content_digest
from .collapse import find_export_faults
from .doors.source import Images, hash_images
from .outputs import join_outputs
from .plan import Plan
from .precision import find_precision, tensors_to_observe
from .progress import Update
from .reference import load_outputs, load_reference


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
    """The optimised graph, and the folder with what calibration observed in it."""

    inputs: Calibrate
    folder: Path

    @property
    def table_file(self) -> Path:
        return self.folder / "table.json"

    def read_table(self) -> CalibrationTable:
        return read_table(self.table_file)

    def load(self) -> tuple[ir.Model, Calibration]:
        """Returns the graph and its calibration. Raises InputError if they do not match."""
        table, model = self.read_table(), ir.load(self.inputs.graph)
        images, origin = self.inputs.images.value, self.inputs.origin()
        table.require(provenance_of(model, images, self.inputs.method, origin))
        return model, Calibration(table, load_samples(self.folder), images)


@dataclass(frozen=True)
class Calibrate(Stage[CalibratedGraph]):
    """Observes the activations of the optimised graph, and keeps samples of `tensors`."""

    original: Path
    graph: Path
    preprocess: Preprocess
    images: Images
    tensors: tuple[str, ...]
    method: str
    title_of = "calibration"

    def origin(self) -> Origin:
        """The hashes of the weights and of the preprocessing."""
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
        InputError: if the model cannot be used.
        VitEdgeError: if the exported graph does not compute what the model does.
    """
    source, images = plan.source, hash_images(plan.data.evaluation)
    original = cache.run(source.original_stage(plan.seed))
    graph = cache.run(source.graph_stage(original))
    folder = cache.run(source.reference_stage(original, images, plan.seed))
    reference = SavedReference(folder, images)
    cache.run(CheckExport(graph, reference))
    tensors = tensors_to_observe(ir.load(graph).graph, map(find_precision, plan.precisions))
    calibration = hash_images(plan.data.calibration)
    calibrated = cache.run(
        Calibrate(original, graph, source.preprocess, calibration, tensors, plan.method)
    )
    return Baseline(graph, reference, calibrated)


def read_passes(graph: Path) -> list[dict[str, object]]:
    """The reports of the passes that a graph of `MakeGraph` went through."""
    return list(json.loads((graph.parent / "passes.json").read_text()))
