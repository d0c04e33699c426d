"""Turns the stages' results into the manifest and the list of a bundle's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vit_edge.calibration.observers import CalibrationTable
from vit_edge.calibration.onnx_file import weights_file
from vit_edge.runtime.manifest import (
    CALIBRATION,
    GOLDEN,
    SCHEMA_VERSION,
    STATISTICS,
    Accuracy,
    EngineEntry,
    Fact,
    FileEntry,
    Graph,
    Manifest,
    PlanSummary,
    PrecisionEntry,
    is_fact,
)
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan, decode_plan

from .baseline import SavedReference
from .cache import tool_versions
from .measure import LatencyHere
from .merging.schedule import Merging
from .plan import Plan, Target
from .precision import find_precision
from .quantise.layers import Work
from .quantise.linear_layers import LayerExplanation
from .search import Fallback, rank
from .sensitivity import Sensitivity
from .statistics import SavedStatistics


@dataclass(frozen=True)
class GraphResult:
    """ONNX file, the accuracy of each output, and the share of its work that is quantised."""

    file: Path
    accuracy: dict[str, Accuracy]
    rms_tolerance: dict[str, float]
    work: Work = Work()

    @property
    def parts(self) -> tuple[Path, ...]:
        """The graph's file, and that of its weights where they are stored beside it."""
        weights = weights_file(self.file)
        return (self.file,) if weights is None else (self.file, weights)

    @property
    def size(self) -> int:
        return sum(part.stat().st_size for part in self.parts)


@dataclass(frozen=True)
class EngineResult:
    """An engine that was built here.

    Attributes:
        form: The form of the graph that it was built from.
        plan_file: What its builder compiled, as `EnginePlan.encode` writes it; None if that is not
            known.
    """

    file: Path
    target: Target
    version: str
    compute_capabilities: tuple[str, ...]
    form: Mapping[str, str]
    plan_file: Path | None

    @cached_property
    def plan(self) -> EnginePlan | None:
        return None if self.plan_file is None else decode_plan(self.plan_file.read_bytes())

    @cached_property
    def summary(self) -> PlanSummary | None:
        return None if self.plan is None else self.plan.summary()


@dataclass(frozen=True)
class QuantisationResult:
    """Decisions about each layer of a quantised precision, and the effect of each layer."""

    explanation: tuple[LayerExplanation, ...]
    sensitivities: tuple[Sensitivity, ...]

    @property
    def ranking(self) -> tuple[Sensitivity, ...]:
        """The order in which layers fall back."""
        return rank(self.sensitivities)


@dataclass(frozen=True)
class PrecisionResult:
    """The results of a precision, up to the stage that it reached.

    Attributes:
        name: The precision.
        graphs: By kind of backend.
        problem: Why it failed; None if it did not.
        quantisation: Decisions about its layers, if it is a quantised precision.
        fallback: The layers that had to stay in higher precision; None if there are none.
        latency: On this machine.
        engines: Those that were built.
        evidence: Why the images do not support the verdict; "" if they do.
        merging: What it merges, if it is a merged precision that merges something.
        left_out: Why it was left out without this being a problem; "" if it was not.
        notes: Remarks on whether merging pays, on this CPU and in each engine.
    """

    name: str
    graphs: Mapping[str, GraphResult]
    problem: str | None
    quantisation: QuantisationResult | None = None
    fallback: Fallback | None = None
    latency: LatencyHere | None = None
    engines: tuple[EngineResult, ...] = ()
    evidence: str = ""
    merging: Merging | None = None
    left_out: str = ""
    notes: tuple[str, ...] = ()


def assemble(
    plan: Plan,
    results: list[PrecisionResult],
    table: CalibrationTable,
    reference: SavedReference,
    table_file: Path,
    statistics: SavedStatistics,
) -> tuple[Manifest, dict[str, Path]]:
    """Returns the manifest, without its hashes, and path inside the bundle -> file."""
    files = {
        GOLDEN: reference.folder / GOLDEN,
        CALIBRATION: table_file,
        STATISTICS: statistics.file,
    }
    there = [result for result in results if not result.left_out]
    precisions = {result.name: _entry(result, files) for result in there}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=plan.source.name,
        spec=replace(plan.spec, outputs=reference.outputs()),
        preprocess=plan.source.preprocess,
        labels=plan.data.class_names,
        precisions=precisions,
        model=_flat(plan.source.facts),
        provenance=_provenance(plan, table, there),
        tools=tool_versions(),
        files={name: FileEntry("0" * 64, 0) for name in files},
        statistics=statistics.entry,
    )
    return manifest, files


def _flat(fields: Mapping[str, object]) -> dict[str, Fact]:
    """Flattens the model's configuration; options of a group become `group.option`."""
    flat = dict[str, Fact]()
    for name, value in fields.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": fact for inner, fact in _flat(value).items()})
        else:
            flat[name] = _fact(value)
    return flat


def _fact(value: object) -> Fact:
    """Returns numbers as plain Python ones if a manifest accepts them, and all else as text."""
    for kind in (bool, int, float):
        if isinstance(value, kind) and is_fact(plain := kind(value)):
            return plain
    return str(value)


def _entry(result: PrecisionResult, files: dict[str, Path]) -> PrecisionEntry:
    """Returns a precision's entry and adds its files to `files`, each shared one only once."""
    graphs = {}
    for kind, graph in result.graphs.items():
        parts = {f"onnx/{part.name}": part for part in graph.parts}
        files.update(parts)
        name, *external = parts
        precision = find_precision(result.name)
        rank, least = getattr(precision.ranks, kind), precision.least_capability
        graphs[kind] = Graph(
            name,
            tuple(external),
            graph.accuracy,
            graph.rms_tolerance,
            rank,
            graph.work.shares,
            least if kind == "gpu" else "",
        )
    engines = []
    for engine in result.engines:
        stem = f"engines/{result.name}.{engine.target}"
        name, plan_name = f"{stem}.engine", ""
        files[name] = engine.file
        if engine.plan_file is not None:
            plan_name = f"{stem}.plan.json"
            files[plan_name] = engine.plan_file
        engines.append(
            EngineEntry(
                name,
                engine.target.backend,
                engine.version,
                engine.compute_capabilities,
                dict(engine.form),
                plan_name,
                engine.summary,
            )
        )
    fallback = result.fallback
    layers, reason = (fallback.layers, fallback.reason) if fallback else ((), "")
    return PrecisionEntry(graphs, tuple(engines), layers, reason, result.evidence)


def _provenance(
    plan: Plan, table: CalibrationTable, results: Sequence[PrecisionResult]
) -> dict[str, Fact]:
    evaluation, observed = plan.data.evaluation, table.provenance
    return {
        "weights": plan.source.weights,
        "weights sha256": plan.source.weights_key or "-",
        "inferred": plan.source.inferred or "-",
        "assumed": "; ".join(plan.source.assumed) or "-",
        "seed": _fact(plan.seed),
        "calibration": f"{observed.images} images of {observed.data_source}, {observed.method}",
        "calibration data sha256": observed.data,
        "calibrated weights sha256": observed.origin.weights,
        "calibrated preprocessing sha256": observed.origin.preprocess,
        "calibrated graph sha256": observed.graph,
        "evaluation": f"{len(evaluation)} images of {evaluation.source}",
        "classes": "; ".join(plan.data.notes) or "-",
        **{f"{r.name} merges": str(r.merging) for r in results if r.merging is not None},
    }
