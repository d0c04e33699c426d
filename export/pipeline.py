"""The main path, top to bottom: from a model to a bundle of proven engines.

    weights or ONNX file -> reference, ONNX -> calibration table -> for each precision: graphs,
    accuracy, engines -> bundle

This file alone knows the order of the stages of a precision, `baseline.py` that of those before it.
How a stage does its work is in the module that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vit_edge.runtime.errors import EngineError, InputError
from vit_edge.runtime.outputs import unpack

from .accuracy import find_problem
from .assemble import (
    EngineResult,
    GraphResult,
    PrecisionResult,
    QuantisationResult,
    assemble,
)
from .baseline import Baseline, make_baseline, read_passes
from .cache import Hashed, StageCache, open_cache
from .class_order import better_order
from .collapse import PlainLowerings
from .engines import EngineBuilder
from .evidence import find_weakness, remarks_on_calibration, remarks_on_reference
from .forms import DEFAULT
from .measure import LatencyHere
from .package import recover, write_bundle
from .plan import FAST, ExportRequest, Plan, Target, make_plan
from .precision import Budget, Precision, QuantisedPrecision, find_precision
from .progress import Display
from .report import Report, make_report, write_report
from .search import Problem, find_fallback
from .stages import (
    BuildEngine,
    CheckForCollapse,
    Lower,
    LoweredGraph,
    LowerQuantised,
    MeasureAccuracy,
    MeasureLatency,
    MeasureSensitivity,
    SearchForm,
    SearchQuantisation,
)


def export_bundle(request: ExportRequest, display: Display) -> Report:
    """Makes the bundle that `request` asks for, and returns the report, as `export_and_measure`."""
    return export_and_measure(request, display)[0]


def export_and_measure(
    request: ExportRequest, display: Display
) -> tuple[Report, list[PrecisionResult]]:
    """Makes the bundle that `request` asks for.

    The report is always written; the bundle only if every precision met its budget.

    Raises:
        InputError: for bad input, before any work.
        BackendError: if engines are asked for that cannot be built here.
    """
    plan = make_plan(request)
    for line in plan.notes:
        display.note(line)
    with open_cache(plan.out.parent / ".stages" / plan.out.name, display) as cache:
        recover(plan.out)
        baseline = make_baseline(plan, cache)
        for remark in _remarks(plan, baseline):
            display.note(remark)
            plan = replace(plan, notes=(*plan.notes, remark))
        results = [_PrecisionRoad(name, plan, baseline, cache).run() for name in plan.precisions]
        report = make_report(plan, results, read_passes(baseline.graph))
        if report.good:
            table, reference = baseline.calibrated, baseline.reference
            manifest, files = assemble(
                plan, results, table.read_table(), reference, table.table_file
            )
            with display.stage("bundle"):
                write_bundle(plan.out, manifest, files)
            cache.prune()
    try:
        write_report(report, results, plan.out)
    except OSError as error:
        state = "the new bundle was written" if report.good else "the old bundle is untouched"
        raise InputError(f"the report could not be written ({error}); {state}") from None
    return report, results


def _remarks(plan: Plan, baseline: Baseline) -> Iterator[str]:
    """Says what the images cannot tell, or tell of another order of the classes."""
    yield from remarks_on_calibration(plan.data.calibration)
    if plan.source.random:
        return
    reference = baseline.reference.load()
    yield from remarks_on_reference(reference)
    first = reference.outputs[0]
    if reference.labels is None or not plan.data.folders or not first.classifies:
        return
    values = unpack(reference.values, reference.outputs)[first.name]
    remark = better_order(values, reference.labels, plan.data.folders)
    if remark is not None:
        yield remark


@dataclass(frozen=True)
class _PrecisionRoad:
    """The stages of the precision `name`, in their order.

    `proofs` are those of its graphs, `plain` what its attempts are compared with.
    """

    name: str
    plan: Plan
    baseline: Baseline
    cache: StageCache
    proofs: dict[LoweredGraph, GraphResult] = field(default_factory=dict)
    plain: PlainLowerings = field(default_factory=PlainLowerings)

    def run(self) -> PrecisionResult:
        """Lowers, proves, repairs where that is needed and possible, then builds: engines are made
        of proven graphs only.
        """
        precision = find_precision(self.name)
        if isinstance(precision, QuantisedPrecision):
            result = self._run_quantised(precision)
        else:
            lowered = self.cache.run(Lower(self.name, precision, self.baseline.calibrated))
            result = self._result(precision, lowered, self._find_problem(precision, lowered))
        if result.problem:
            return result
        if "cpu" in result.graphs:
            result = replace(result, latency=self._measure_latency(result.graphs["cpu"]))
        if "gpu" in result.graphs:
            try:
                graph = result.graphs["gpu"]
                narrowed = [t.narrowed(precision.least_capability) for t in self.plan.targets]
                engines = tuple(self._build(graph, target) for target in narrowed if target)
                return replace(result, engines=engines)
            except EngineError as error:
                return replace(result, problem=str(error))
        return result

    def _run_quantised(self, precision: QuantisedPrecision) -> PrecisionResult:
        """Searches a quantisation; layers fall back where it misses the budget or is broken."""
        scheme, calibrated = precision.scheme, self.baseline.calibrated
        pair = self.cache.run(SearchQuantisation(scheme, calibrated))
        images, outputs = calibrated.inputs.images, self.baseline.reference.outputs()
        sensitivities = self.cache.run(MeasureSensitivity(scheme, pair, images, outputs))

        def lower(fallback: tuple[str, ...]) -> dict[str, LoweredGraph]:
            return self.cache.run(LowerQuantised(self.name, precision, calibrated, pair, fallback))

        def prove(fallback: tuple[str, ...]) -> Problem | None:
            return self._find_problem(precision, lower(fallback))

        lowered, fallback = lower(()), None
        problem = self._find_problem(precision, lowered)
        if problem is not None:
            fallback = find_fallback(sensitivities, problem, prove)
            if fallback is not None:  # the search has proven it
                lowered, problem = lower(fallback.layers), None
        result = self._result(precision, lowered, problem)
        quantisation = QuantisationResult(pair.read_explanation(), sensitivities)
        return replace(result, quantisation=quantisation, fallback=fallback)

    def _result(
        self, precision: Precision, lowered: dict[str, LoweredGraph], problem: Problem | None
    ) -> PrecisionResult:
        """The figures of all graphs of a lowering, with the problem that was found."""
        proofs = {graph: self._measure(graph) for graph in dict.fromkeys(lowered.values())}
        graphs = {kind: proofs[graph] for kind, graph in lowered.items()}
        if problem is not None:
            return PrecisionResult(self.name, graphs, problem.words)
        outputs, random = self.baseline.reference.outputs(), self.plan.source.random
        budget = self._budget(precision)
        weaknesses = (find_weakness(p.accuracy, outputs, budget, random) for p in proofs.values())
        evidence = next((words for words in weaknesses if words), "")
        return PrecisionResult(self.name, graphs, None, evidence=evidence)

    def _find_problem(
        self, precision: Precision, lowered: dict[str, LoweredGraph]
    ) -> Problem | None:
        """The first problem of the graphs of a lowering; those behind it are not measured."""
        reference, plan = self.baseline.reference, self.plan
        outputs, budget = reference.outputs(), self._budget(precision)
        files = []
        for graph in dict.fromkeys(lowered.values()):
            proof = self._measure(graph)
            problem = find_problem(
                proof.accuracy, outputs, budget, plan.source.random, plan.max_drop
            )
            if problem is not None:
                return Problem(problem)
            files.append(graph.file)
        check = CheckForCollapse(
            self.name,
            tuple(sorted(files)),
            self.baseline.graph,
            reference,
            precision.limits,
            Hashed(self.plain, None),
        )
        faults = self.cache.run(check)
        if not faults:
            return None
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return Problem(f"{faults[0]}{more}", tuple(fault.module for fault in faults))

    def _measure(self, graph: LoweredGraph) -> GraphResult:
        if graph not in self.proofs:
            metric = self.plan.metric
            hashed = None if metric is None else Hashed(metric, metric.key)
            stage = MeasureAccuracy(graph, self.baseline.reference, hashed)
            self.proofs[graph] = self.cache.run(stage)
        return self.proofs[graph]

    def _budget(self, precision: Precision) -> Budget:
        """The precision's; `--max-drop` is the metric's where there is one."""
        if self.plan.metric is not None:
            return precision.budget
        return precision.budget.with_max_drop(self.plan.max_drop)

    def _measure_latency(self, graph: GraphResult) -> LatencyHere | None:
        plan, images = self.plan, self.baseline.reference.images
        return self.cache.run(MeasureLatency(self.name, graph.file, plan.spec, images, plan.timing))

    def _build(self, graph: GraphResult, target: Target) -> EngineResult:
        """Builds an engine in the form that costs least on the target: in the default one where the
        builder needs a GPU, whose builds take too long to try several.
        """
        builder = EngineBuilder.for_target(target, self.plan.spec, self.name)
        effort, form = self.plan.effort, DEFAULT
        if effort != FAST and builder.tells_plans:
            images = self.baseline.reference.images
            tolerance = min(graph.rms_tolerance.values()) / 4
            search = SearchForm(builder, graph.file, self.baseline.graph, images, tolerance)
            form = self.cache.run(search)
        return self.cache.run(BuildEngine(builder, graph.file, form, effort))
