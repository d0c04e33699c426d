"""Chooses the engine that an application gets on this device, and says why.

What can run is checked and measured once, quickly, and remembered with the device; from then on the
fastest is opened at once. What is passed over is logged, and named in the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from .backends import Session
from .deployment import Candidate, Deployment, run_problems
from .errors import BackendError, EngineError, SelfCheckError
from .frames import run_frames

if TYPE_CHECKING:
    from .metrics import TimingBudget

_log = logging.getLogger("vit_edge.runtime")

REFUSALS = (BackendError, EngineError, SelfCheckError)
"""Errors that skip to the next candidate; all others propagate."""


class Chosen(NamedTuple):
    """An opened engine, and why it is this one."""

    candidate: Candidate
    session: Session
    why: str


def open_best(
    deployment: Deployment, candidates: Sequence[Candidate], budget: TimingBudget | None = None
) -> Chosen:
    """Opens the fastest of `candidates` that is right on this device.

    Args:
        deployment: The bundle on this device; what is found out is remembered there.
        candidates: Likeliest first, for where they are as fast as each other or cannot be measured.
        budget: How long to measure those that were not measured here yet; None: quickly.

    Raises:
        BackendError: if none can run here.
        EngineError, SelfCheckError: if there is but one and it is refused.
    """
    passed_over = list[str]()
    shortlist = _shortlist(deployment, candidates, passed_over)
    if len(shortlist) > 1:
        for candidate in shortlist:
            _measure_once(deployment, candidate, budget, passed_over)

    def speed(candidate: Candidate) -> tuple[bool, float]:
        finding = deployment.finding(candidate)
        return finding.refused is not None, finding.latency_ms or inf

    for candidate in sorted(shortlist, key=speed):
        why = _explain(deployment, candidate, shortlist)
        try:
            session = deployment.open(candidate)
        except REFUSALS as error:
            if len(candidates) == 1:
                raise
            _pass_over(f"{candidate} is not used: {error}", passed_over)
        else:
            unfit = deployment.prebuilt_problems(candidate)
            return Chosen(candidate, session, "; ".join([why, *unfit, *passed_over]))
    path = deployment.bundle.path
    raise BackendError(f"nothing in {path} can run here: {'; '.join(passed_over)}")


def _pass_over(reason: str, passed_over: list[str]) -> None:
    _log.warning("%s", reason)
    passed_over.append(reason)


def _shortlist(
    deployment: Deployment, candidates: Sequence[Candidate], passed_over: list[str]
) -> list[Candidate]:
    """Lists the runnable candidates to choose from: all that need no building; and of a backend for
    which nothing is built yet the likeliest, because building takes minutes.
    """
    problems = run_problems(c.backend for c in candidates)
    for name, problem in problems.items():  # no warning: few devices have every backend
        _log.info("%s cannot run: %s", name, problem)
        passed_over.append(f"{name} cannot run: {problem}")
    runnable = [c for c in candidates if c.backend.name not in problems]
    ready = [c for c in runnable if deployment.has_engine(c)]
    served = {c.backend.name for c in ready}
    for candidate in runnable:
        if candidate.backend.name not in served:
            served.add(candidate.backend.name)
            ready.append(candidate)
    return [c for c in runnable if c in ready]


def _measure_once(
    deployment: Deployment,
    candidate: Candidate,
    budget: TimingBudget | None,
    passed_over: list[str],
) -> None:
    """Checks and measures a candidate of which nothing is known here yet."""
    from . import metrics  # at a bundle's first load on a device only

    finding = deployment.finding(candidate)
    if finding.refused:
        reason = f"was refused before (`vit-edge check` tries again): {finding.refused}"
        _pass_over(f"{candidate} {reason}", passed_over)
        return
    if finding.latency_ms is not None:
        return
    _log.info("measuring %s, once on this device", candidate)
    spec, frame = deployment.bundle.manifest.spec, deployment.golden.images[:1]
    try:
        session = deployment.open(candidate)
        try:
            latency = metrics.measure_latency(
                lambda: run_frames(session, spec, frame), budget or metrics.QUICK
            )
        finally:
            session.close()
    except REFUSALS as error:
        deployment.refuse(candidate, error)
        _pass_over(f"{candidate} is not used: {error}", passed_over)
    else:
        deployment.remember_latency(candidate, latency.p50_ms)


def _explain(deployment: Deployment, candidate: Candidate, shortlist: Sequence[Candidate]) -> str:
    """Gives the reason for a choice, as far as latencies go."""
    latency = deployment.finding(candidate).latency_ms
    others = {c: deployment.finding(c).latency_ms for c in shortlist if c != candidate}
    slower = sorted((ms, str(c)) for c, ms in others.items() if ms is not None)
    if latency is None or not slower:
        return "the only one that can run here"
    return (
        f"fastest measured here at batch 1: {latency:.3g} ms, then {slower[0][1]} with "
        f"{slower[0][0]:.3g} ms"
    )
