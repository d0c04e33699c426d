"""The main path, top to bottom: from a model to a bundle of proven engines.

    weights or ONNX file -> reference, ONNX -> calibration table -> for each precision: graphs,
    accuracy, engines -> bundle

This file alone knows the order of the stages of a precision, `baseline.py` that of those before it.
How a stage does its work is in the module that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from .measure import AS_IT_IS, LatencyHere
from .merging.blocks import CannotMergeError
from .merging.engines import judge_engine
from .merging.result import Merging
from .merging.schedule import AUTO
from .merging.stages import Candidates, CompareWithBase, Merge, SearchMerging, given_schedule
from .metric import Metric
from .package import recover, write_bundle
from .plan import FAST, ExportRequest, Plan, Target, make_plan
from .precision import Budget, MergedPrecision, Precision, QuantisedPrecision, find_precision
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
        result = self._prove(precision)[1]
        if result.problem or result.left_out:
            return result
        if "cpu" in result.graphs:
            result = replace(result, latency=self._measure_latency(result.graphs["cpu"]))
        if "gpu" in result.graphs:
            try:
                return self._with_engines(precision, result)
            except EngineError as error:
                return replace(result, problem=str(error))
        return result

    def _prove(self, precision: Precision) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """The graphs of a precision, with what was measured of them."""
        if isinstance(precision, MergedPrecision):
            return self._prove_merged(precision)
        if isinstance(precision, QuantisedPrecision):
            return self._prove_quantised(precision)
        lowered = self.cache.run(Lower(self.name, precision, self.baseline.calibrated))
        return lowered, self._result(precision, lowered, self._find_problem(precision, lowered))

    def _prove_quantised(
        self, precision: QuantisedPrecision
    ) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
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
        return lowered, replace(result, quantisation=quantisation, fallback=fallback)

    def _prove_merged(
        self, precision: MergedPrecision
    ) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """Merges tokens in the proven graphs of another precision, as many as the budget allows."""
        road = replace(self, name=precision.base)
        graphs, base = road._prove(precision.of)
        if base.problem:
            why = f"{precision.base}, which it is made from, is not good"
            return graphs, PrecisionResult(self.name, {}, why)
        candidates = self._find_schedules(precision, graphs)
        problem, merged = Problem(candidates.reason), graphs
        for schedule in candidates.schedules:
            merged = self.cache.run(Merge(self.name, graphs, schedule))
            missed = self._find_missed(precision, merged)
            if missed is None:
                merging = self._compare(precision, merged, graphs, schedule)
                result = self._result(precision, merged, None)
                return merged, replace(result, fallback=base.fallback, merging=merging)
            problem = missed
        if self.plan.merge == AUTO:
            why = f"nothing within the budget: {problem}" if candidates.schedules else str(problem)
            return graphs, PrecisionResult(self.name, {}, None, left_out=why)
        if candidates.schedules:
            return merged, self._result(precision, merged, problem)
        return graphs, PrecisionResult(self.name, {}, f"--merge {self.plan.merge}: {problem}")

    def _compare(
        self,
        precision: MergedPrecision,
        merged: Mapping[str, LoweredGraph],
        graphs: Mapping[str, LoweredGraph],
        schedule: tuple[int, ...],
    ) -> Merging:
        """Measures what merging alone changes, on the graphs for CPUs where there are some."""
        one, other = (next(iter(lowered.values())) for lowered in (merged, graphs))
        reference = self.baseline.reference
        return self.cache.run(
            CompareWithBase(self.name, precision.base, one, other, schedule, reference)
        )

    def _find_schedules(
        self, precision: MergedPrecision, graphs: Mapping[str, LoweredGraph]
    ) -> Candidates:
        """Searches schedules, or takes the one that was given."""
        plan, graph = self.plan, next(iter(graphs.values()))
        if not isinstance(plan.merge, str):
            try:
                return Candidates((given_schedule(plan.merge, graph.file),))
            except CannotMergeError as error:
                return Candidates((), str(error))
        search = SearchMerging(
            precision.base,
            graph.file if graph.how == AS_IT_IS else self.baseline.graph,
            self.baseline.graph,
            self.baseline.reference.outputs(),
            self.baseline.calibrated.inputs.images,
            plan.data.folders,
            self._budget(precision),
            plan.source.random,
            self._metric(),
            plan.max_drop,
        )
        return self.cache.run(search)

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
        problem = self._find_missed(precision, lowered)
        if problem is not None:
            return problem
        files = sorted(graph.file for graph in dict.fromkeys(lowered.values()))
        check = CheckForCollapse(
            self.name,
            tuple(files),
            self.baseline.graph,
            self.baseline.reference,
            precision.limits,
            Hashed(self.plain, None),
        )
        faults = self.cache.run(check)
        if not faults:
            return None
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return Problem(f"{faults[0]}{more}", tuple(fault.module for fault in faults))

    def _find_missed(
        self, precision: Precision, lowered: dict[str, LoweredGraph]
    ) -> Problem | None:
        """The first graph's measure that is outside of the budget."""
        plan, outputs = self.plan, self.baseline.reference.outputs()
        for graph in dict.fromkeys(lowered.values()):
            accuracy, budget = self._measure(graph).accuracy, self._budget(precision)
            problem = find_problem(accuracy, outputs, budget, plan.source.random, plan.max_drop)
            if problem is not None:
                return Problem(problem)
        return None

    def _measure(self, graph: LoweredGraph) -> GraphResult:
        if graph not in self.proofs:
            stage = MeasureAccuracy(graph, self.baseline.reference, self._metric())
            self.proofs[graph] = self.cache.run(stage)
        return self.proofs[graph]

    def _metric(self) -> Hashed[Metric] | None:
        metric = self.plan.metric
        return None if metric is None else Hashed(metric, metric.key)

    def _budget(self, precision: Precision) -> Budget:
        """The precision's; `--max-drop` is the metric's where there is one."""
        if self.plan.metric is not None:
            return precision.budget
        return precision.budget.with_max_drop(self.plan.max_drop)

    def _measure_latency(self, graph: GraphResult) -> LatencyHere | None:
        plan, images = self.plan, self.baseline.reference.images
        return self.cache.run(MeasureLatency(self.name, graph.file, plan.spec, images, plan.timing))

    def _with_engines(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """Builds the engines; of a merged precision those that cost less than without merging, and
        where none does it is for CPUs alone.

        Raises:
            EngineError: if a builder refuses a graph.
        """
        narrowed = [t.narrowed(precision.least_capability) for t in self.plan.targets]
        targets = [target for target in narrowed if target]
        engines = [self._build(result.graphs["gpu"], target) for target in targets]
        if not isinstance(precision, MergedPrecision):
            return replace(result, engines=tuple(engines))
        road = replace(self, name=precision.base)
        graph = road._prove(precision.of)[1].graphs["gpu"]
        pairs = [(e, road._build(graph, t)) for e, t in zip(engines, targets, strict=True)]
        verdicts = [judge_engine(self.name, precision.base, *pair) for pair in pairs]
        kept = tuple(e for e, verdict in zip(engines, verdicts, strict=True) if verdict.pays)
        notes, graphs = tuple(verdict.words for verdict in verdicts), dict(result.graphs)
        if verdicts and not kept:
            del graphs["gpu"]  # or GPUs would build it
        return replace(result, graphs=graphs, engines=kept, notes=notes)

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
