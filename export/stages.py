"""The stages of one precision. Each fills a folder from its inputs, once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration, provenance_of
from vit_edge.calibration.onnx_file import same_graph, save_onnx, to_bytes
from vit_edge.calibration.samples import load_samples
from vit_edge.calibration.table import Origin, read_table
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.schema import decode, decode_all, encode, encode_all

from .accuracy import Proof, assess, budget_miss, golden_tolerance
from .assemble import EngineResult, GraphResult, Quantising
from .cache import StageCache, content_digest
from .collapse import Fault, find_faults
from .engines import EngineBuilder, FoundForm, same_answers
from .forms import DEFAULT, GraphForm, write_in
from .measure import LatencyHere, how_to_measure, measure_here, measure_logits
from .plan import FAST, Plan, Target
from .precision import Graphs, QuantisedPrecision, find_precision
from .precision.quantised import quantise_model
from .progress import Update
from .quantise.explanation import SiteExplanation
from .quantise.units import find_units, raise_units
from .reference import load_reference
from .search import count_parts
from .sensitivity import Sensitivity, images_for, measure_sensitivity
from .start import Start

_log = logging.getLogger("vit_edge.export")


@dataclass(frozen=True)
class Shared:
    """Folders of the stages that all precisions build on, and how the data enters a stage's key."""

    start: Start
    table: Path
    calibration: Sequence[object]
    evaluation: Sequence[object]

    def load_calibrated(self, plan: Plan) -> tuple[ir.Model, Calibration]:
        """The optimised graph, and what calibration told of it."""
        table = read_table(self.table / "table.json")
        model = ir.load(self.start.onnx / "model.onnx")
        images, origin = plan.data.calibration, origin_of(plan, self.start)
        table.require(provenance_of(model, images, plan.method, origin))
        return model, Calibration(table, load_samples(self.table))


def origin_of(plan: Plan, start: Start) -> Origin:
    """What the model is made of, by hash."""
    preprocess = hashlib.sha256(encode(plan.source.preprocess).encode()).hexdigest()
    return Origin(content_digest(start.weights), preprocess)


@dataclass(frozen=True)
class Attempt:
    """A precision's graphs with certain units raised; what misses its budget or is broken."""

    graphs: dict[str, GraphResult]
    miss: str | None


@dataclass(frozen=True)
class PrecisionStages:
    """The stages of the precision `name`."""

    name: str
    plan: Plan
    shared: Shared
    cache: StageCache

    def quantise(self) -> Quantising | None:
        """Searches smoothing, ranges and rounding, and measures each part's effect; None for a
        precision that is not quantised.
        """
        precision, shared = find_precision(self.name), self.shared
        if not isinstance(precision, QuantisedPrecision):
            return None

        def search_stage(folder: Path, update: Update) -> None:
            quantised = quantise_model(*shared.load_calibrated(self.plan), precision.scheme, update)
            save_onnx(quantised.exact, folder / "exact.onnx")
            save_onnx(quantised.lowered, folder / "lowered.onnx")
            (folder / "explanation.json").write_text(encode_all(quantised.explanation))

        inputs = [shared.start.onnx, shared.table, precision.scheme]
        title = str(precision.scheme)
        graphs = self.cache.run(f"{title} search", inputs, search_stage)
        effects = self._sensitivity(title, graphs)
        return Quantising(
            graphs,
            decode_all(SiteExplanation, (graphs / "explanation.json").read_text()),
            decode_all(Sensitivity, (effects / "sensitivity.json").read_text()),
        )

    def _sensitivity(self, title: str, graphs: Path) -> Path:
        def sensitivity_stage(folder: Path, update: Update) -> None:
            exact, lowered = _load_pair(graphs)
            units, images = find_units(exact.graph, lowered.graph), self.plan.data.calibration
            few = images.subset(range(min(images_for(units), len(images))))
            found = measure_sensitivity(exact, lowered, units, few, update)
            (folder / "sensitivity.json").write_text(encode_all(found))

        inputs = [graphs, *self.shared.calibration]
        return self.cache.run(f"{title} sensitivity", inputs, sensitivity_stage)

    def attempt(self, quantising: Quantising | None, raised: tuple[str, ...]) -> Attempt:
        """Lowers with the units named in `raised` left in higher precision, and proves."""
        lowered = self._lower(quantising, raised)
        wanted = json.loads((lowered / "graphs.json").read_text())
        proofs = {
            (file, how): self._prove(lowered / file, how)
            for file, how in dict.fromkeys(map(tuple, wanted.values()))
        }
        graphs = {kind: proofs[tuple(key)] for kind, key in wanted.items()}
        budget, random = find_precision(self.name).budget, self.plan.source.random
        budget = budget.with_max_drop(self.plan.max_drop)
        misses = [budget_miss(graph.accuracy, budget, random) for graph in graphs.values()]
        miss = next((miss for miss in misses if miss), None)
        return Attempt(graphs, miss or self._check(lowered, sorted({file for file, _ in proofs})))

    def _check(self, lowered: Path, files: Sequence[str]) -> str | None:
        """What is broken in a graph that meets its budget, by chance or where the images do not
        tell: the first fault; None if nothing is.
        """
        shared, data, limits = self.shared, self.plan.data, find_precision(self.name).limits

        def check_stage(folder: Path, update: Update) -> None:
            reference = load_reference(
                shared.start.reference, data.evaluation, self.plan.source.output
            ).logits
            fp32, found = ir.load(shared.start.onnx / "model.onnx"), list[Fault]()
            for done, file in enumerate(files):
                update(done, len(files))
                graph = ir.load(lowered / file)
                if not same_graph(graph, fp32):  # else the export check did it
                    found += find_faults(graph, fp32, data.evaluation, reference, limits)
            (folder / "faults.json").write_text(encode_all(found))

        inputs = [lowered, shared.start.onnx, shared.start.reference, limits, *shared.evaluation]
        folder = self.cache.run(f"{self.name} check for collapse", inputs, check_stage)
        faults = decode_all(Fault, (folder / "faults.json").read_text())
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return f"{faults[0]}{more}" if faults else None

    def _lower(self, quantising: Quantising | None, raised: tuple[str, ...]) -> Path:
        """The folder with the graphs; `graphs.json` says which serves what, and how to measure."""
        precision, shared = find_precision(self.name), self.shared

        def graph_stage(folder: Path, update: Update) -> None:
            if quantising is None or not isinstance(precision, QuantisedPrecision):
                graphs = precision.lower(*shared.load_calibrated(self.plan))
            else:
                exact, lowered = _load_pair(quantising.graphs)
                raise_units(exact, lowered, find_units(exact.graph, lowered.graph), raised)
                graphs = precision.finish(lowered, read_table(shared.table / "table.json"))
            _save_graphs(self.name, graphs, folder)

        before = [] if quantising is None else [quantising.graphs]
        inputs = [shared.start.onnx, shared.table, *before, precision, raised]
        title = f"{self.name} graph" + (f", {count_parts(raised)} raised" if raised else "")
        return self.cache.run(title, inputs, graph_stage)

    def _prove(self, file: Path, how: str) -> GraphResult:
        """Measures a graph against the reference on the evaluation images."""
        data, reference = self.plan.data, self.shared.start.reference

        def accuracy_stage(folder: Path, update: Update) -> None:
            expected = load_reference(reference, data.evaluation, self.plan.source.output)
            measured = measure_logits(file, how, data.evaluation, update)
            accuracy = assess(measured.logits, expected, measured.measured_on)
            proof = Proof(accuracy, golden_tolerance(measured.logits, expected))
            (folder / "proof.json").write_text(encode(proof))

        inputs = [file.parent, file.name, reference, *self.shared.evaluation]
        folder = self.cache.run(f"{file.stem} accuracy, {how}", inputs, accuracy_stage)
        proof = decode(Proof, json.loads((folder / "proof.json").read_text()))
        return GraphResult(file, proof.accuracy, proof.rms_tolerance)

    def measure_latency(self, file: Path) -> LatencyHere | None:
        """Latency at batch 1 on this machine."""
        spec = self.plan.spec

        def latency_stage(folder: Path, update: Update) -> None:
            latency = measure_here(self.name, file, spec, self.plan.data.evaluation)
            (folder / "latency.json").write_text(encode_all([latency] if latency else []))

        inputs = [file.parent, file.name, spec]
        folder = self.cache.run(f"{self.name} latency", inputs, latency_stage)
        return next(iter(decode_all(LatencyHere, (folder / "latency.json").read_text())), None)

    def build(self, graph: GraphResult, target: Target) -> EngineResult:
        """An engine of a proven graph, in the form that costs least on the target."""
        builder, spec = EngineBuilder(target, self.plan.spec, self.name), self.plan.spec
        form = self._find_form(graph, builder)

        def engine_stage(folder: Path, update: Update) -> None:
            content = to_bytes(write_in(ir.load(graph.file), form))
            built = builder.build(content, form, spec.batch, update)
            (folder / "engine").write_bytes(built.engine)
            plan = builder.read_plan(content, form, built, self.plan.effort)
            if plan is not None:
                (folder / "plan.json").write_bytes(plan.encode())

        inputs = [graph.file.parent, graph.file.name, target, builder.built_for, spec, dict(form)]
        inputs.append(self.plan.effort)
        folder = self.cache.run(f"{self.name} engine {target}", inputs, engine_stage)
        plan_file = folder / "plan.json"
        return EngineResult(
            folder / "engine",
            target,
            builder.version,
            builder.built_for,
            form,
            plan_file if plan_file.exists() else None,
        )

    def _find_form(self, graph: GraphResult, builder: EngineBuilder) -> GraphForm:
        """The form to build in: the default one where the builder needs a GPU, whose builds take
        too long to try several.
        """
        if self.plan.effort == FAST or not builder.tells_plans:
            return DEFAULT
        data, shared = self.plan.data, self.shared

        def form_stage(folder: Path, update: Update) -> None:
            model = ir.load(graph.file)
            tolerance = graph.rms_tolerance / 4
            try:
                found = builder.search(model, ir.load(shared.start.onnx / "model.onnx"))
            except EngineError:  # the build of the engine itself says what is wrong
                found = FoundForm(dict(DEFAULT), ())
            other = write_in(model, found.form)
            if not same_answers(model, other, data.evaluation, tolerance):
                _log.warning("%s: a form is not used, it computes something else", self.name)
                found = replace(found, form=dict(DEFAULT))
            (folder / "form.json").write_text(encode(found))

        file = graph.file
        inputs = [file.parent, file.name, builder.target, builder.built_for, self.plan.spec]
        inputs += [shared.start.onnx, *shared.evaluation]
        folder = self.cache.run(f"{self.name} form for {builder.target}", inputs, form_stage)
        return decode(FoundForm, json.loads((folder / "form.json").read_text())).form


def _load_pair(graphs: Path) -> tuple[ir.Model, ir.Model]:
    """The graph before and after quantisation."""
    return ir.load(graphs / "exact.onnx"), ir.load(graphs / "lowered.onnx")


def _save_graphs(name: str, graphs: Graphs, folder: Path) -> None:
    files = dict[int, str]()
    for kind, graph in graphs.items():
        if id(graph) not in files:
            files[id(graph)] = f"{name}.{kind}.onnx" if files else f"{name}.onnx"
            save_onnx(graph, folder / files[id(graph)])
    wanted = {k: [files[id(graph)], how_to_measure(graph)] for k, graph in graphs.items()}
    (folder / "graphs.json").write_text(json.dumps(wanted))
