"""Stages of one precision: search, lowering, proof and engines."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.onnx_file import same_graph, save_onnx, to_bytes
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.metrics import TimingBudget
from vit_edge.runtime.outputs import LOGITS, OutputSpec
from vit_edge.runtime.schema import decode, decode_all, encode, encode_all

from .accuracy import Proof, assess, golden_tolerances
from .assemble import EngineResult, GraphResult
from .baseline import CalibratedGraph, SavedReference
from .cache import Hashed, Stage
from .collapse import Fault, Limits, PlainLowerings, find_faults
from .doors.source import Images
from .engines import EngineBuilder, FoundForm, same_outputs
from .forms import DEFAULT, GraphForm, write_in
from .measure import LatencyHere, how_to_measure, measure_here, measure_outputs
from .outputs import join_outputs
from .precision import Graphs, Precision, QuantisedPrecision
from .precision.quantised import quantise_model
from .progress import Update
from .quantise.grid import Scheme
from .quantise.layers import Work, apply_fallback, count_work, find_layers
from .quantise.linear_layers import LayerExplanation
from .search import count_layers
from .sensitivity import Sensitivity, images_for, measure_sensitivity
from .user_code import Metric

_log = logging.getLogger("vit_edge.export")


@dataclass(frozen=True)
class QuantisedPair:
    """Folder with a graph before and after quantisation, and the one that layers fall back to."""

    folder: Path

    def load(self) -> tuple[ir.Model, ir.Model]:
        return ir.load(self.folder / "exact.onnx"), ir.load(self.folder / "lowered.onnx")

    def load_fallback(self) -> ir.Model:
        """The graph that layers which fall back are taken from."""
        return ir.load(self.folder / "fallback.onnx")

    def read_explanation(self) -> tuple[LayerExplanation, ...]:
        return decode_all(LayerExplanation, (self.folder / "explanation.json").read_text())


@dataclass(frozen=True)
class SearchQuantisation(Stage[QuantisedPair]):
    """Searches smoothing, ranges and rounding; precisions of one scheme share it."""

    scheme: Scheme
    calibrated: CalibratedGraph
    gain_of_division: float | None
    title_of = "{scheme} search"

    def run(self, folder: Path, update: Update) -> None:
        quantised = quantise_model(
            *self.calibrated.load(), self.scheme, update, self.gain_of_division
        )
        save_onnx(quantised.exact, folder / "exact.onnx")
        save_onnx(quantised.lowered, folder / "lowered.onnx")
        if quantised.fallback is not quantised.exact:
            save_onnx(quantised.fallback, folder / "fallback.onnx")
        (folder / "explanation.json").write_text(encode_all(quantised.explanation))

    def load(self, folder: Path) -> QuantisedPair:
        return QuantisedPair(folder)


@dataclass(frozen=True)
class MeasureSensitivity(Stage[tuple[Sensitivity, ...]]):
    """Measures what quantising each layer alone does to the outputs."""

    scheme: Scheme
    pair: QuantisedPair
    images: Images
    outputs: tuple[OutputSpec, ...]
    title_of = "{scheme} sensitivity"

    def run(self, folder: Path, update: Update) -> None:
        exact, lowered = (join_outputs(model, self.outputs) for model in self.pair.load())
        layers, images = find_layers(exact.graph, lowered.graph), self.images.value
        few = images.subset(range(min(images_for(layers), len(images))))
        classes = [output.kind for output in self.outputs] == [LOGITS]
        sensitivities = measure_sensitivity(exact, lowered, layers, few, update, classes)
        (folder / "sensitivity.json").write_text(encode_all(sensitivities))

    def load(self, folder: Path) -> tuple[Sensitivity, ...]:
        return decode_all(Sensitivity, (folder / "sensitivity.json").read_text())


@dataclass(frozen=True)
class LoweredGraph:
    """ONNX file of a lowering.

    Attributes:
        how: `AS_IT_IS` or `SIMULATED`: how its outputs are measured.
        work: Its multiplications, and those that it quantises.
    """

    file: Path
    how: str
    work: Work


@dataclass(frozen=True)
class MakeGraphs(Stage[dict[str, LoweredGraph]]):
    """Base of the stages that make the graphs of the precision `name`; gives one for each kind of
    backend.
    """

    name: str
    title_of = "{name} graph"

    @abstractmethod
    def lower(self) -> Graphs:
        """The graph for each kind of backend."""

    def run(self, folder: Path, update: Update) -> None:
        files: dict[int, str] = {}
        graphs = self.lower()
        for kind, graph in graphs.items():
            if id(graph) not in files:
                name = f"{self.name}.{kind}.onnx" if files else f"{self.name}.onnx"
                save_onnx(graph, folder / files.setdefault(id(graph), name))
        entries = {
            kind: [files[id(graph)], how_to_measure(graph), asdict(count_work(graph.graph))]
            for kind, graph in graphs.items()
        }
        (folder / "graphs.json").write_text(json.dumps(entries))

    def load(self, folder: Path) -> dict[str, LoweredGraph]:
        entries = json.loads((folder / "graphs.json").read_text())
        return {
            kind: LoweredGraph(folder / file, how, decode(Work, work))
            for kind, (file, how, work) in entries.items()
        }


@dataclass(frozen=True)
class Lower(MakeGraphs):
    """Lowers the optimised graph in one step, without a search."""

    precision: Precision
    calibrated: CalibratedGraph

    def lower(self) -> Graphs:
        return self.precision.lower(*self.calibrated.load())


@dataclass(frozen=True)
class LowerQuantised(MakeGraphs):
    """Finishes what `SearchQuantisation` wrote, with some layers left in higher precision."""

    precision: QuantisedPrecision
    calibrated: CalibratedGraph
    pair: QuantisedPair
    fallback: tuple[str, ...]

    @property
    def title(self) -> str:
        left = f", {count_layers(self.fallback)} in higher precision" if self.fallback else ""
        return f"{self.name} graph{left}"

    def lower(self) -> Graphs:
        exact, lowered = self.pair.load()
        layers = find_layers(exact.graph, lowered.graph)
        fallback = exact if self.precision.scheme.fallback is None else self.pair.load_fallback()
        apply_fallback(fallback, lowered, layers, self.fallback)
        return self.precision.finish(lowered, self.calibrated.read_table())


@dataclass(frozen=True)
class MeasureAccuracy(Stage[GraphResult]):
    """Measures a graph against the reference on the evaluation images."""

    graph: LoweredGraph
    reference: SavedReference
    metric: Hashed[Metric] | None = None
    title_of = "{graph.file.stem} accuracy, {graph.how}"

    def run(self, folder: Path, update: Update) -> None:
        reference, images = self.reference.load(), self.reference.images.value
        measured = measure_outputs(self.graph.file, self.graph.how, images, update)
        metric = None if self.metric is None else self.metric.value
        accuracy = assess(measured.values, reference, measured.measured_on, metric)
        proof = Proof(accuracy, golden_tolerances(measured.values, reference))
        (folder / "proof.json").write_text(encode(proof))

    def load(self, folder: Path) -> GraphResult:
        proof = decode(Proof, json.loads((folder / "proof.json").read_text()))
        names = [output.name for output in self.reference.outputs()]
        accuracy = {name: proof.accuracy[name] for name in names}
        return GraphResult(self.graph.file, accuracy, proof.rms_tolerance, self.graph.work)


@dataclass(frozen=True)
class CheckForCollapse(Stage[tuple[Fault, ...]]):
    """Finds faults in graphs that meet their budget by chance, or because the images do not show
    them. `plain` only saves work.
    """

    name: str
    graphs: tuple[Path, ...]
    fp32: Path
    reference: SavedReference
    limits: Limits
    plain: Hashed[PlainLowerings]
    title_of = "{name} check for collapse"

    def run(self, folder: Path, update: Update) -> None:
        reference, images = self.reference.load(), self.reference.images.value
        values, scale = reference.joined()
        fp32, faults = join_outputs(ir.load(self.fp32), reference.outputs), list[Fault]()
        for done, file in enumerate(self.graphs):
            update(done, len(self.graphs))
            graph = join_outputs(ir.load(file), reference.outputs)
            if not same_graph(graph, fp32):  # otherwise `CheckExport` has checked it
                plain = self.plain.value
                faults += find_faults(graph, fp32, images, values, scale, self.limits, plain)
        (folder / "faults.json").write_text(encode_all(faults))

    def load(self, folder: Path) -> tuple[Fault, ...]:
        return decode_all(Fault, (folder / "faults.json").read_text())


@dataclass(frozen=True)
class MeasureLatency(Stage[LatencyHere | None]):
    """Measures the latency of a graph at batch 1 on this machine."""

    name: str
    graph: Path
    spec: EngineSpec
    images: Images
    timing: TimingBudget
    title_of = "{name} latency"

    def run(self, folder: Path, update: Update) -> None:
        images = self.images.value
        latency = measure_here(self.name, self.graph, self.spec, images, self.timing)
        (folder / "latency.json").write_text(encode_all([latency] if latency else []))

    def load(self, folder: Path) -> LatencyHere | None:
        return next(iter(decode_all(LatencyHere, (folder / "latency.json").read_text())), None)


@dataclass(frozen=True)
class SearchForm(Stage[GraphForm]):
    """Searches the form of a graph that costs least on the target."""

    builder: EngineBuilder
    graph: Path
    fp32: Path
    images: Images
    tolerance: float
    title_of = "{builder.precision} form for {builder.target}"

    def run(self, folder: Path, update: Update) -> None:
        model = ir.load(self.graph)
        try:
            best = self.builder.search(model, ir.load(self.fp32))
        except EngineError:  # the build of the engine will report what is wrong
            best = FoundForm(dict(DEFAULT), ())
        outputs = self.builder.spec.outputs
        one, other = (join_outputs(m, outputs) for m in (model, write_in(model, best.form)))
        if not same_outputs(one, other, self.images.value, self.tolerance):
            _log.warning(
                "%s: a form is not used, it computes something else", self.builder.precision
            )
            best = replace(best, form=dict(DEFAULT))
        (folder / "form.json").write_text(encode(best))

    def load(self, folder: Path) -> GraphForm:
        return decode(FoundForm, json.loads((folder / "form.json").read_text())).form


@dataclass(frozen=True)
class BuildEngine(Stage[EngineResult]):
    """Builds an engine of a proven graph in one form, and reads its plan."""

    builder: EngineBuilder
    graph: Path
    form: Mapping[str, str]
    estimates: bool
    title_of = "{builder.precision} engine {builder.target}"

    def run(self, folder: Path, update: Update) -> None:
        content = to_bytes(write_in(ir.load(self.graph), self.form))
        built = self.builder.build(content, self.form, self.builder.spec.batch, update)
        (folder / "engine").write_bytes(built.engine)
        plan = self.builder.read_plan(content, self.form, built, self.estimates)
        if plan is not None:
            (folder / "plan.json").write_bytes(plan.encode())

    def load(self, folder: Path) -> EngineResult:
        builder, plan = self.builder, folder / "plan.json"
        return EngineResult(
            folder / "engine",
            builder.target,
            builder.version,
            builder.built_for,
            self.form,
            plan if plan.exists() else None,
        )
