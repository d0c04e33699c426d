"""The stages of one precision, in their order: graphs, accuracy, repairs, engines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vit_edge.runtime.errors import EngineError

from .accuracy import find_problem
from .assemble import EngineResult, GraphResult, PrecisionResult, QuantisationResult
from .baseline import Baseline
from .cache import Hashed, StageCache
from .collapse import PlainLowerings
from .engines import EngineBuilder
from .evidence import find_weakness
from .forms import DEFAULT
from .measure import LatencyHere
from .plan import Plan, Target
from .precision import Budget, Precision, QuantisedPrecision, find_precision
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
from .user_code import Metric


@dataclass(frozen=True)
class PrecisionPipeline:
    """The stages of the precision `name`, in their order.

    `proofs` keeps the measured accuracy of its graphs, `plain` the plain lowerings that they are
    compared with.
    """

    name: str
    plan: Plan
    baseline: Baseline
    cache: StageCache
    proofs: dict[LoweredGraph, GraphResult] = field(default_factory=dict)
    plain: PlainLowerings = field(default_factory=PlainLowerings)

    def run(self) -> PrecisionResult:
        """Lowers, proves, repairs where that is needed and possible, then builds engines, from
        proven graphs only.
        """
        precision = find_precision(self.name)
        result = self.prove(precision)[1]
        if result.problem or result.left_out:
            return result
        if "cpu" in result.graphs:
            result = self.with_latency(precision, result)
        if "gpu" in result.graphs:
            try:
                return self.with_engines(precision, result)
            except EngineError as error:
                return replace(result, problem=str(error))
        return result

    def prove(self, precision: Precision) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """The graphs of a precision, and what was measured on them."""
        if isinstance(precision, QuantisedPrecision):
            return self._prove_quantised(precision)
        lowered = self.cache.run(Lower(self.name, precision, self.baseline.calibrated))
        return lowered, self.result(precision, lowered, self._find_problem(precision, lowered))

    def _prove_quantised(
        self, precision: QuantisedPrecision
    ) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """Searches a quantisation; layers fall back where it misses the budget or is broken."""
        scheme, calibrated = precision.scheme, self.baseline.calibrated
        gain = self.plan.effort.gain_of_division
        pair = self.cache.run(SearchQuantisation(scheme, calibrated, gain))
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
        result = self.result(precision, lowered, problem)
        quantisation = QuantisationResult(pair.read_explanation(), sensitivities)
        return lowered, replace(result, quantisation=quantisation, fallback=fallback)

    def result(
        self, precision: Precision, lowered: dict[str, LoweredGraph], problem: Problem | None
    ) -> PrecisionResult:
        """The figures of all graphs of a lowering, with the problem that was found."""
        proofs = {graph: self._measure(graph) for graph in dict.fromkeys(lowered.values())}
        graphs = {kind: proofs[graph] for kind, graph in lowered.items()}
        if problem is not None:
            return PrecisionResult(self.name, graphs, problem.words)
        outputs, random = self.baseline.reference.outputs(), self.plan.source.random
        budget = self.budget(precision)
        weaknesses = (find_weakness(p.accuracy, outputs, budget, random) for p in proofs.values())
        evidence = next((words for words in weaknesses if words), "")
        return PrecisionResult(self.name, graphs, None, evidence=evidence)

    def _find_problem(
        self, precision: Precision, lowered: dict[str, LoweredGraph]
    ) -> Problem | None:
        """The first problem of the graphs of a lowering; the search stops there."""
        problem = self.find_missed(precision, lowered)
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

    def find_missed(self, precision: Precision, lowered: dict[str, LoweredGraph]) -> Problem | None:
        """The first measure of a graph that is outside the budget; None if there is none."""
        plan, outputs = self.plan, self.baseline.reference.outputs()
        for graph in dict.fromkeys(lowered.values()):
            accuracy, budget = self._measure(graph).accuracy, self.budget(precision)
            problem = find_problem(accuracy, outputs, budget, plan.source.random, plan.max_drop)
            if problem is not None:
                return Problem(problem)
        return None

    def _measure(self, graph: LoweredGraph) -> GraphResult:
        if graph not in self.proofs:
            stage = MeasureAccuracy(graph, self.baseline.reference, self.metric())
            self.proofs[graph] = self.cache.run(stage)
        return self.proofs[graph]

    def metric(self) -> Hashed[Metric] | None:
        metric = self.plan.metric
        return None if metric is None else Hashed(metric, metric.key)

    def budget(self, precision: Precision) -> Budget:
        """The precision's budget; `--max-drop` applies to the user's metric if there is one."""
        if self.plan.metric is not None:
            return precision.budget
        return precision.budget.with_max_drop(self.plan.max_drop)

    def measure_latency(self, graph: GraphResult) -> LatencyHere | None:
        plan, images = self.plan, self.baseline.reference.images
        return self.cache.run(MeasureLatency(self.name, graph.file, plan.spec, images, plan.timing))

    def with_latency(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """Measures the latency of the graph for CPUs on this machine."""
        return replace(result, latency=self.measure_latency(result.graphs["cpu"]))

    def with_engines(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """Builds the engines. Raises EngineError if a builder refuses a graph."""
        graph, targets = result.graphs["gpu"], self.targets(precision)
        return replace(result, engines=tuple(self.build(graph, target) for target in targets))

    def targets(self, precision: Precision) -> list[Target]:
        """The targets whose GPUs have the precision's types."""
        narrowed = [target.narrowed(precision.least_capability) for target in self.plan.targets]
        return [target for target in narrowed if target]

    def build(self, graph: GraphResult, target: Target) -> EngineResult:
        """Builds an engine in the form that costs least on the target. The default form is taken if
        the effort tries no others, or if the builder needs a GPU: several builds take too long.
        """
        builder = EngineBuilder.for_target(target, self.plan.spec, self.name)
        effort, form = self.plan.effort, DEFAULT
        if effort.tries_forms and builder.tells_plans:
            images = self.baseline.reference.images
            tolerance = min(graph.rms_tolerance.values()) / 4
            search = SearchForm(builder, graph.file, self.baseline.graph, images, tolerance)
            form = self.cache.run(search)
        return self.cache.run(BuildEngine(builder, graph.file, form, effort.tries_forms))
