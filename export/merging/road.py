"""The stages of a merged precision, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vit_edge.export.assemble import PrecisionResult
from vit_edge.export.measure import AS_IT_IS
from vit_edge.export.precision import MergedPrecision, Precision
from vit_edge.export.road import PrecisionRoad
from vit_edge.export.search import Problem
from vit_edge.export.stages import LoweredGraph

from .blocks import CannotMergeError
from .judge import judge_engine, judge_latency
from .result import Merging
from .schedule import AUTO, as_typed
from .stages import (
    RANDOM,
    TRAINED,
    Candidates,
    CompareWithBase,
    Merge,
    SearchMerging,
    given_schedule,
)


@dataclass(frozen=True)
class MergedRoad(PrecisionRoad):
    """From the proven graphs of another precision to fewer tokens, as the budget allows."""

    def prove(self, precision: Precision) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """See `export.road.PrecisionRoad`. Merges as much as the budget allows, or what was given.

        There is no check for collapse: the base passed it, and tokens that were merged are nowhere
        to be compared.
        """
        assert isinstance(precision, MergedPrecision)
        graphs, base = self._base(precision).prove(precision.of)
        if base.problem:
            why = f"{precision.base}, which it is made from, is not good"
            return graphs, PrecisionResult(self.name, {}, why)
        candidates = self._find_schedules(precision, graphs)
        problem, merged = Problem(candidates.reason), graphs
        for schedule in candidates.schedules:
            try:
                merged = self.cache.run(Merge(self.name, graphs, schedule))
            except CannotMergeError as error:
                candidates = Candidates((), str(error))
                problem = Problem(str(error))
                break
            missed = self.find_missed(precision, merged)
            if missed is None:
                merging = self._compare(precision, merged, graphs, schedule)
                result = self.result(precision, merged, None)
                return merged, replace(result, fallback=base.fallback, merging=merging)
            problem = missed
        if self.plan.merge == AUTO:
            why = f"nothing within the budget: {problem}" if candidates.schedules else str(problem)
            return graphs, PrecisionResult(self.name, {}, None, left_out=why)
        if candidates.schedules:
            return merged, self.result(precision, merged, problem)
        return graphs, PrecisionResult(
            self.name, {}, f"--merge {as_typed(self.plan.merge)}: {problem}"
        )

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
            self.budget(precision),
            RANDOM if plan.source.random else TRAINED,
            self.metric(),
            plan.max_drop,
        )
        return self.cache.run(search)

    def _base(self, precision: MergedPrecision) -> PrecisionRoad:
        """The road of the precision that is merged; what it does is in the cache."""
        return PrecisionRoad(precision.base, self.plan, self.baseline, self.cache, self.proofs)

    def with_latency(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """See `export.road.PrecisionRoad`. Says where merging does not pay on this machine."""
        assert isinstance(precision, MergedPrecision)
        result, base = super().with_latency(precision, result), self._base(precision)
        plain = base.measure_latency(base.prove(precision.of)[1].graphs["cpu"])
        if result.latency is None or plain is None:
            return result
        line = judge_latency(self.name, precision.base, result.latency, plain)
        return replace(result, notes=(*result.notes, line))

    def with_engines(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """See `export.road.PrecisionRoad`. Engines that merging makes no cheaper are left out;
        where it makes none cheaper the precision is for CPUs alone.
        """
        assert isinstance(precision, MergedPrecision)
        built, base = super().with_engines(precision, result), self._base(precision)
        graph = base.prove(precision.of)[1].graphs["gpu"]
        plain = [base.build(graph, target) for target in self.targets(precision)]
        verdicts = [
            judge_engine(self.name, precision.base, *pair)
            for pair in zip(built.engines, plain, strict=True)
        ]
        pairs = zip(built.engines, verdicts, strict=True)
        kept = tuple(engine for engine, verdict in pairs if verdict.pays)
        graphs = dict(result.graphs)
        if verdicts and not kept:
            del graphs["gpu"]  # or GPUs would build it
        notes = (*result.notes, *(verdict.words for verdict in verdicts))
        return replace(result, graphs=graphs, engines=kept, notes=notes)
