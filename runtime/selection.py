"""Chooses the engine that an application gets on this device, and says why.

Engines that can run are checked and timed once, in a short race, and the result is kept in the
device's cache; from then on the same engine is opened at once. Within noise a fixed rule decides,
so that equal machines run the same engine; `compare` recommends by the same rule. Engines that are
passed over are logged, and named in the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .backends import BACKENDS, Session
from .deployment import Candidate, Deployment, Option
from .errors import BackendError, EngineError, SelfCheckError
from .files import available_memory
from .frames import run_frames
from .manifest import EngineSpec

if TYPE_CHECKING:
    from .metrics import TimingBudget

_log = logging.getLogger("vit_edge.runtime")
K = TypeVar("K", bound=Hashable)

REFUSALS = (BackendError, EngineError, SelfCheckError)
"""Errors that skip to the next candidate; all others propagate."""
LEVEL = 1.02
"""Engines whose latencies differ by a smaller factor are level: it may be noise, and is negligible.
"""
AS_FAITHFUL = 2.0
"""Errors that differ by less than this factor count as alike."""
ROUNDING_ERROR = 1e-5
"""Error below which outputs differ only by the order of additions in fp32."""
ROOM = 4
"""Memory that an engine may take, as a multiple of its size: the bytes, the library's copy, packed
weights, and working memory.
"""


class Standing(NamedTuple):
    """Facts that decide between engines whose outputs are right.

    Attributes:
        behind: Lower end of the confidence interval of its latency, relative to the fastest's.
        error: Relative error on the golden samples; None if it is not known.
        size: Bytes of what it runs.
        place: Its place in the fixed order of backends, and a name; decides if all else is alike.
    """

    behind: float
    error: float | None
    size: int
    place: tuple[int, str]

    @property
    def is_level(self) -> bool:
        """True unless it is slower than the fastest by more than noise and enough to matter."""
        return self.behind <= LEVEL


def backend_place(name: str) -> int:
    """Returns a backend's place in the fixed order, which decides if all else is alike."""
    names = list(BACKENDS)
    return names.index(name) if name in names else len(names)


def preferred(standings: Mapping[K, Standing]) -> K:
    """Returns the engine to use: of those that are level with the fastest the one with the smallest
    error; if errors are alike, the smallest engine, then the first in the fixed order. Within noise
    measured times do not decide, so that every measurement leads to the same choice.
    """
    fewest = min(s.behind for s in standings.values())
    level = {key: s for key, s in standings.items() if s.is_level or s.behind == fewest}

    def error(key: K) -> float:
        known = level[key].error
        return inf if known is None else known

    bound = max(AS_FAITHFUL * min(map(error, level)), ROUNDING_ERROR)
    faithful = [key for key in level if error(key) <= bound]
    return min(faithful, key=lambda key: (level[key].size, level[key].place))


class Chosen(NamedTuple):
    """An opened engine, and why it was chosen.

    Attributes:
        not_run: Reasons why other backends, or candidates, cannot run here, by name.
    """

    candidate: Candidate
    session: Session
    why: str
    not_run: dict[str, str]


def open_best(
    deployment: Deployment, candidates: Sequence[Candidate], budget: TimingBudget | None = None
) -> Chosen:
    """Opens the best of `candidates` that is right on this device: see `preferred`.

    If the device's cache cannot be written and they were not measured before, the order of the
    export decides: measuring at every start would cost more than it gains, and results could vary.

    Args:
        deployment: The bundle on this device, which keeps the findings.
        candidates: Most promising first: their order decides where they are not measured.
        budget: How long to measure those that were not measured here yet; None: `metrics.QUICK`.

    Raises:
        BackendError: if none can run here.
        EngineError, SelfCheckError: if there is only one and it is refused.
    """
    passed_over = list[str]()
    runnable, not_run = deployment.survey(candidates)
    for name, problem in not_run.items():  # no warning: few devices have every backend
        _log.info("%s cannot run: %s", name, problem)
    shortlist, unwritable = _shortlist(runnable), None
    if len(shortlist) > 1:
        unwritable = _measure_once(deployment, shortlist, budget, passed_over)
    waiting = list(shortlist)
    while waiting:
        option = _next(waiting)
        waiting.remove(option)
        why, candidate = unwritable or _explain(option, shortlist), option.candidate
        unopened = deployment.prebuilt_problems(candidate)
        try:
            session = deployment.open(candidate)
        except REFUSALS as error:
            if candidate.variant is not None:
                waiting.append(deployment.describe(candidate.default))
            elif len(candidates) == 1:
                raise
            _pass_over(f"{candidate} is not used: {error}", passed_over)
        else:
            return Chosen(candidate, session, "; ".join([why, *unopened, *passed_over]), not_run)
    reasons = [*(f"{name} cannot run: {why}" for name, why in not_run.items()), *passed_over]
    raise BackendError(f"nothing in {deployment.bundle.path} can run here: {'; '.join(reasons)}")


def _pass_over(reason: str, passed_over: list[str]) -> None:
    _log.warning("%s", reason)
    passed_over.append(reason)


def _shortlist(runnable: Sequence[Option]) -> list[Option]:
    """Lists the options to choose from: all that need no building, and the most promising one of
    each backend for which nothing is built yet, because building takes minutes.
    """
    served = {option.candidate.backend.name for option in runnable if option.ready}
    shortlist = []
    for option in runnable:
        name = option.candidate.backend.name
        if option.ready or name not in served:
            served.add(name)
            shortlist.append(option)
    return shortlist


def _next(waiting: Sequence[Option]) -> Option:
    """Returns the option to open: the preferred one of those that were measured; if none was, the
    first that was not refused before, else the first.
    """
    times = [f.latency_ms for _, f, _, _ in waiting if f.latency_ms is not None]
    if not times:
        return next((option for option in waiting if option.finding.refused is None), waiting[0])
    standings = {}
    for number, (candidate, finding, size, _) in enumerate(waiting):
        if (latency := finding.latency_ms) is not None:
            low = (finding.latency_interval_ms or (latency, latency))[0]
            place = backend_place(candidate.backend.name), candidate.precision
            standings[number] = Standing(low / min(times), finding.rms_error, size, place)
    return waiting[preferred(standings)]


def _measure_once(
    deployment: Deployment,
    shortlist: list[Option],
    budget: TimingBudget | None,
    passed_over: list[str],
) -> str | None:
    """Checks and races options without a latency here yet, and updates the findings in `shortlist`.

    Returns:
        The reason for the choice if nothing could be measured; None otherwise.
    """
    unknown = []
    for candidate, finding, _, _ in shortlist:
        if finding.refused:
            reason = f"was refused before (`vit-edge check` tries again): {finding.refused}"
            _pass_over(f"{candidate} {reason}", passed_over)
        elif finding.latency_ms is None:
            unknown.append(candidate)
    if not unknown:
        return None
    problem = deployment.cache.problem()
    if problem is not None:
        if len(unknown) < len(shortlist):
            return None  # the measurements of an earlier start are enough
        return (
            f"first in the order that the export measured; not measured here, because the cache "
            f"{deployment.cache.folder.parent} cannot be written ({problem})"
        )
    while unknown:
        with ExitStack() as stack:
            opened, unknown = _open_together(deployment, unknown, stack, passed_over)
            _race(deployment, opened, budget, passed_over)
    shortlist[:] = [o._replace(finding=deployment.finding(o.candidate)) for o in shortlist]
    return None


def _open_together(
    deployment: Deployment,
    waiting: Sequence[Candidate],
    stack: ExitStack,
    passed_over: list[str],
) -> tuple[dict[Candidate, Session], list[Candidate]]:
    """Opens as many candidates as memory allows; returns them, and those left for another race.

    One that fails while others are open is left, because it may only lack memory; one that fails
    alone is refused.
    """
    opened: dict[Candidate, Session] = {}
    left = []
    for candidate in waiting:
        if opened and ROOM * deployment.size(candidate) > available_memory():
            left.append(candidate)
            continue
        try:
            opened[candidate] = deployment.open(candidate)
        except REFUSALS as error:
            if opened:
                left.append(candidate)
            else:
                _refuse(deployment, candidate, error, passed_over)
        else:
            stack.callback(opened[candidate].close)
    return opened, left


def _race(
    deployment: Deployment,
    opened: dict[Candidate, Session],
    budget: TimingBudget | None,
    passed_over: list[str],
) -> None:
    """Races opened engines and remembers their latencies. One that fails is refused, and the others
    race again.
    """
    from . import metrics  # needed only at a bundle's first load on a device

    spec, frame = deployment.bundle.manifest.spec, deployment.golden.images[:1]
    while opened:
        failed: dict[Candidate, Exception] = {}
        calls = {c: partial(_run, c, s, spec, frame, failed) for c, s in opened.items()}
        _log.info("measuring %s, once on this device", " and ".join(map(str, opened)))
        try:
            placings = metrics.race(calls, budget or metrics.QUICK)
        except REFUSALS:
            for candidate, error in failed.items():
                _refuse(deployment, candidate, error, passed_over)
            opened = {c: session for c, session in opened.items() if c not in failed}
            continue
        for candidate, placing in placings.items():
            interval = placing.low_ms, placing.high_ms
            deployment.remember_latency(candidate, placing.p50_ms, interval)
        return


def _run(
    candidate: Candidate,
    session: Session,
    spec: EngineSpec,
    frame: NDArray[np.uint8],
    failed: dict[Candidate, Exception],
) -> None:
    """Runs a frame; a failure is noted in `failed` and ends the race."""
    try:
        run_frames(session, spec, frame)
    except REFUSALS as error:
        failed[candidate] = error
        raise


def _refuse(
    deployment: Deployment, candidate: Candidate, error: Exception, passed_over: list[str]
) -> None:
    deployment.refuse(candidate, error)
    _pass_over(f"{candidate} is not used: {error}", passed_over)


def _explain(chosen: Option, shortlist: Sequence[Option]) -> str:
    """Gives the reason for a choice, as far as latencies go."""
    tuned, latency = _tuning(chosen.candidate), chosen.finding.latency_ms
    others = {o.candidate: o.finding.latency_ms for o in shortlist if o != chosen}
    rivals = sorted((ms, str(c)) for c, ms in others.items() if ms is not None)
    if latency is None or not rivals:
        return f"the only one that can run here{tuned}"
    ms, rival = rivals[0]
    if latency <= ms:
        return (
            f"fastest measured here at batch 1: {latency:.3g} ms, then {rival} with {ms:.3g} ms"
            f"{tuned}"
        )
    return (
        f"level with the fastest measured here at batch 1, within noise ({latency:.3g} ms, {rival} "
        f"{ms:.3g} ms), and first by error, size and order{tuned}"
    )


def _tuning(candidate: Candidate) -> str:
    """Describes what `vit-edge tune` found; "" if nothing was kept."""
    variant = candidate.variant
    if variant is None:
        return ""
    return f"; tuned here ({variant.name}), {variant.gain:.3g} times as fast as untuned"
