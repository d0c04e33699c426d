"""The stages of a merged precision, in their order, and the decision for which engines merging
pays: its own kernels may cost more than fewer tokens save.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vit_edge.export.assemble import EngineResult, PrecisionResult
from vit_edge.export.measure import AS_IT_IS, LatencyHere
from vit_edge.export.precision import MergedPrecision, Precision
from vit_edge.export.precision_pipeline import PrecisionPipeline
from vit_edge.export.search import Problem
from vit_edge.export.stages import LoweredGraph
from vit_edge.runtime.tools.plan.devices import PORTABLE, devices_for
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan
from vit_edge.runtime.tools.plan.estimate import estimate
from vit_edge.runtime.tools.plan.layers import kernels

from .blocks import CannotMergeError
from .schedule import AUTO, Merging, as_typed
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
class Verdict:
    """Outcome for one engine.

    Attributes:
        pays: True if it is estimated to be faster on a device of its target, or there is no
            estimate.
        words: The reason, with kernels and times.
    """

    pays: bool
    words: str


@dataclass(frozen=True)
class _Pair:
    """Estimated microseconds of a call without and with merging, and the kernels of each."""

    device: str
    batch: int
    times: tuple[float, float]
    kernels: tuple[int, int]

    @property
    def gain(self) -> float:
        return self.times[0] / self.times[1]


def judge_engine(name: str, base: str, merged: EngineResult, plain: EngineResult) -> Verdict:
    """Compares the plans of two engines for one target.

    Args:
        name: The merged precision.
        base: The precision that it is made from, which merges none.
        merged: The engine of `name`.
        plain: The engine of `base`.
    """
    pairs = _compare(merged.plan, plain.plan, merged.compute_capabilities)
    what = f"{name} for {merged.target}"
    if not pairs:
        return Verdict(True, f"{what}: no estimate tells if merging pays there; measure it")
    best = max(pairs, key=lambda pair: pair.gain)
    figures = (
        f"{best.times[1]:.0f} us in {best.kernels[1]} kernels, {base} {best.times[0]:.0f} us in "
        f"{best.kernels[0]} (estimated, {best.device}, batch {best.batch})"
    )
    if best.gain <= 1:
        return Verdict(
            False,
            f"no engine of {what}: its own kernels cost more than fewer tokens save, at best "
            f"{figures}",
        )
    shares = []
    for batch in sorted({pair.batch for pair in pairs}):
        here = [pair for pair in pairs if pair.batch == batch]
        faster = sum(pair.gain > 1 for pair in here)
        shares.append(f"{faster} of {len(here)} GPUs at batch {batch}")
    return Verdict(True, f"{what}: cheaper on {', '.join(shares)}; at best {figures}")


def judge_latency(name: str, base: str, merged: LatencyHere, plain: LatencyHere) -> str:
    """Describes the latency of one image on this machine with merging and without."""
    pays = merged.p50_ms < plain.p50_ms
    return (
        f"{name} takes {merged.p50_ms:.3g} ms for one image here, {base} {plain.p50_ms:.3g}"
        f"{'' if pays else ': merging does not pay on this CPU'}"
    )


def _compare(
    merged: EnginePlan | None, plain: EnginePlan | None, capabilities: tuple[str, ...]
) -> list[_Pair]:
    """Both estimates for each device and batch size that has them."""
    if merged is None or plain is None:
        return []
    pairs, others = [], {at.batch: at.layers for at in plain.batches}
    for at in merged.batches:
        layers = others.get(at.batch)
        if layers is None:
            continue
        counts = tuple(sum(1 for _ in kernels(one)) for one in (layers, at.layers))
        for device in devices_for(capabilities or PORTABLE):
            one, other = (estimate(some, at.batch, device) for some in (layers, at.layers))
            if one is not None and other is not None:
                times = (1000 * one.milliseconds, 1000 * other.milliseconds)
                pairs.append(_Pair(device.name, at.batch, times, (counts[0], counts[1])))
    return pairs


@dataclass(frozen=True)
class MergedPipeline(PrecisionPipeline):
    """Merges tokens in the proven graphs of another precision, as far as the budget allows."""

    def prove(self, precision: Precision) -> tuple[dict[str, LoweredGraph], PrecisionResult]:
        """See `PrecisionPipeline`. Merges as much as the budget allows, or what the user gave.

        There is no check for collapse: the base passed it, and merged tokens have no counterpart to
        be compared with.
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
        """Measures what merging alone changes, on the graph for CPUs if there is one."""
        one, other = (next(iter(lowered.values())) for lowered in (merged, graphs))
        reference = self.baseline.reference
        return self.cache.run(
            CompareWithBase(self.name, precision.base, one, other, schedule, reference)
        )

    def _find_schedules(
        self, precision: MergedPrecision, graphs: Mapping[str, LoweredGraph]
    ) -> Candidates:
        """Searches schedules, or returns the one that the user gave."""
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

    def _base(self, precision: MergedPrecision) -> PrecisionPipeline:
        """The pipeline of the precision that is merged; its results are cached."""
        return PrecisionPipeline(precision.base, self.plan, self.baseline, self.cache, self.proofs)

    def with_latency(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """See `PrecisionPipeline`. Adds a note on whether merging pays on this machine."""
        assert isinstance(precision, MergedPrecision)
        result, base = super().with_latency(precision, result), self._base(precision)
        plain = base.measure_latency(base.prove(precision.of)[1].graphs["cpu"])
        if result.latency is None or plain is None:
            return result
        line = judge_latency(self.name, precision.base, result.latency, plain)
        return replace(result, notes=(*result.notes, line))

    def with_engines(self, precision: Precision, result: PrecisionResult) -> PrecisionResult:
        """See `PrecisionPipeline`. Leaves out engines that merging does not make faster; if it
        makes none faster, the precision is for CPUs only.
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
            del graphs["gpu"]  # otherwise GPUs would build it
        notes = (*result.notes, *(verdict.words for verdict in verdicts))
        return replace(result, graphs=graphs, engines=kept, notes=notes)
