"""Opens variants beside the default, checks them on the golden samples, measures those that are
right in interleaved rounds, and judges by one rule whether a variant is faster.

A variant counts if, at one of the measured batch sizes at least, it is `LEVEL` times as fast as the
default or more and the whole interval of that ratio lies above 1, and if at no other it is as much
slower. The rule is applied to a contest of its own, after the one that chose whom to look at again:
the best of many is partly luck, and luck does not come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...backends import Built, Session
from ...deployment import Deployment, Opened
from ...errors import BackendError, EngineError, ResourceError
from ...files import available_memory
from ...frames import run_frames
from ...selection import LEVEL, ROOM
from ..compare.contest import say_time_left
from ..display import say
from ..measure.rounds import Contest, Schedule, Series, measure_rounds
from ..measure.statistics import Estimate, interleaved_ratio
from .kept import try_variant
from .variants import Proposal

Gains = Mapping[int, Estimate]
"""A variant's speed in units of the default's, by batch size."""


def is_faster(gain: Estimate) -> bool:
    """Tells whether a variant is faster at one batch size."""
    return gain.value >= LEVEL and gain.low > 1


def is_slower(gain: Estimate) -> bool:
    """Tells whether a variant is slower at one batch size, by as much as would count."""
    return gain.value * LEVEL <= 1 and gain.high < 1


def counts(gains: Gains) -> bool:
    """Tells whether a variant counts."""
    return any(map(is_faster, gains.values())) and not any(map(is_slower, gains.values()))


def overall(gains: Gains) -> float:
    """The geometric mean of the gains, by which variants that count are ranked."""
    return float(np.exp(np.mean([np.log(gain.value) for gain in gains.values()])))


def shortcoming(gains: Gains) -> str:
    """Says why a variant does not count; "" if it does."""
    if counts(gains):
        return ""
    slower = [batch for batch, gain in gains.items() if is_slower(gain)]
    if slower:
        return "slower" if len(slower) == len(gains) else f"slower at batch {slower[0]}"
    if any(gain.value >= LEVEL for gain in gains.values()):
        return "not faster beyond noise"
    return f"not {LEVEL:g} times as fast"


DEFAULT = "default"
"""Name of the default in a contest; no variant has it."""
_REFUSALS = (BackendError, EngineError, MemoryError)


@dataclass(frozen=True)
class VariantTrial:
    """Variant that was tried.

    Attributes:
        opened: Its golden check; its session is closed. None where it could not be opened.
        problem: Why it cannot be kept; "" if it could.
        series: Its latencies, by batch size.
        gains: How many times as fast as the default it is.
    """

    proposal: Proposal
    opened: Opened | None = None
    problem: str = ""
    series: dict[int, Series] = field(default_factory=dict)
    gains: Gains = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.proposal.variant.name

    @property
    def changes(self) -> int:
        """Number of settings that differ from the defaults; of an engine, its form has all."""
        return len(self.proposal.variant.settings)


class Bench:
    """Place where the variants of one candidate are tried.

    Args:
        deployment: The bundle on this device.
        default: The candidate in its default way, opened and right.
        batches: Batch sizes to measure.
        schedule: How long, by batch size.
    """

    def __init__(
        self,
        deployment: Deployment,
        default: Opened,
        batches: Sequence[int],
        schedule: Callable[[int], Schedule],
    ) -> None:
        self._deployment, self.default = deployment, default
        self._batches, self._schedule = batches, schedule
        self._built: dict[str, Built] = {}
        self.default_series: dict[int, Series] = {}

    def built(self, trial: VariantTrial) -> Built | None:
        """Returns the engine that was built of a variant; None where the graph is what runs."""
        return self._built.get(trial.name)

    def try_all(self, proposals: Sequence[Proposal]) -> list[VariantTrial]:
        """Tries proposals, all at once where memory allows it; else in several contests, each
        beside the default.
        """
        trials: list[VariantTrial] = []
        waiting = list(proposals)
        while waiting:
            with ExitStack() as stack:
                opened, waiting, failed = self._open_group(waiting, stack)
                trials += failed
                if opened:
                    trials += self._measure(opened)
        order = [proposal.variant.name for proposal in proposals]
        return sorted(trials, key=lambda trial: order.index(trial.name))

    def _open_group(
        self, waiting: Sequence[Proposal], stack: ExitStack
    ) -> tuple[list[VariantTrial], list[Proposal], list[VariantTrial]]:
        """Opens as many as memory holds: the opened, those left for another group, those that are
        refused or wrong.
        """
        opened: list[VariantTrial] = []
        left: list[Proposal] = []
        failed: list[VariantTrial] = []
        size = self._deployment.size(self.default.candidate)
        for proposal in waiting:
            if opened and size * ROOM > available_memory():
                left.append(proposal)
                continue
            try:
                trial = self._open(proposal)
            except _REFUSALS as error:
                if opened and isinstance(error, (ResourceError, MemoryError)):
                    left.append(proposal)
                else:
                    failed.append(
                        VariantTrial(proposal, problem=f"refused: {error or 'out of memory'}")
                    )
                continue
            assert trial.opened is not None
            if trial.problem:
                trial.opened.session.close()
                failed.append(trial)
            else:
                stack.callback(trial.opened.session.close)
                opened.append(trial)
        return opened, left, failed

    def _open(self, proposal: Proposal) -> VariantTrial:
        variant, engine = proposal.variant, None
        candidate = replace(self.default.candidate, variant=variant)
        if proposal.build is not None:
            if variant.name not in self._built:
                say(f"  building {variant.name} ...")
                self._built[variant.name] = proposal.build()
            engine = self._built[variant.name].engine
        opened = try_variant(self._deployment, candidate, engine)
        return VariantTrial(proposal, opened, f"wrong: {opened.problem}" if opened.problem else "")

    def _measure(self, trials: Sequence[VariantTrial]) -> list[VariantTrial]:
        spec = self._deployment.bundle.manifest.spec
        images = self._deployment.golden.images
        measured = {trial.name: trial for trial in trials}
        for batch in self._batches:
            frames = np.resize(images, (batch, *spec.image_shape))
            racing = {n: t for n, t in measured.items() if not t.problem}
            calls = {DEFAULT: self._call(self.default.session, frames)} | {
                name: self._call(trial.opened.session, frames)
                for name, trial in racing.items()
                if trial.opened is not None
            }
            say(f"  measuring {len(racing)} variants beside the default at batch {batch} ...")
            contest: Contest[str] = measure_rounds(calls, self._schedule(batch), say_time_left())
            if DEFAULT in contest.failures:
                raise EngineError(contest.failures[DEFAULT])
            default = self.default_series[batch] = contest.series[DEFAULT]
            for name, trial in racing.items():
                measured[name] = _after(trial, batch, default, contest)
        return list(measured.values())

    def _call(self, session: Session, frames: NDArray[np.uint8]) -> Callable[[], object]:
        spec = self._deployment.bundle.manifest.spec
        return lambda: run_frames(session, spec, frames)


def _after(trial: VariantTrial, batch: int, default: Series, contest: Contest[str]) -> VariantTrial:
    """The trial with what a contest at one batch size has found."""
    if trial.name in contest.failures:
        return replace(trial, problem=f"refused: {contest.failures[trial.name]}")
    series = contest.series[trial.name]
    return replace(
        trial,
        series={**trial.series, batch: series},
        gains={**trial.gains, batch: interleaved_ratio(default, series)},
    )
