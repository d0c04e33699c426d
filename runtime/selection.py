"""Which engine of a bundle an application gets on this device, and why.

What can run is checked and measured once, quickly, and remembered with the device
(`runtime.device_cache`); from then on the fastest is opened at once. What is passed over is logged,
and named in the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import inf
from typing import NamedTuple

from .backends import Session
from .bundle import Bundle
from .candidates import Candidate, has_engine, open_session, why_built
from .device_cache import DeviceCache, Finding
from .errors import BackendError, EngineError, SelfCheckError
from .frames import run_frames
from .golden import GoldenSamples
from .latency import QUICK, measure_latency
from .selfcheck import require_golden

_log = logging.getLogger("vit_edge.runtime")

REFUSALS = (BackendError, EngineError, SelfCheckError)
"""What makes it the next candidate's turn; anything else is the caller's to know."""


class Chosen(NamedTuple):
    """An opened engine, and why it is this one."""

    candidate: Candidate
    session: Session
    why: str


def open_best(bundle: Bundle, cache: DeviceCache, candidates: Sequence[Candidate]) -> Chosen:
    """Opens the fastest of `candidates` that is right on this device.

    Args:
        bundle: What they are of.
        cache: What is known of them here; what is found out is added.
        candidates: Likeliest first, for where they are as fast as each other or cannot be measured.

    Raises:
        BackendError: if none can run here.
        EngineError, SelfCheckError: if there is but one and it is refused.
    """
    selection = _Selection(bundle, cache)
    contest = selection.contest(candidates)
    if len(contest) > 1:
        selection.measure(contest)
    for candidate in sorted(contest, key=selection.order):
        why = selection.why(candidate, contest)
        try:
            session = selection.open(candidate)
        except REFUSALS as error:
            if len(candidates) == 1:
                raise
            selection.pass_over(f"{candidate} is not used: {error}")
        else:
            return Chosen(
                candidate,
                session,
                "; ".join([why, *why_built(candidate, bundle), *selection.passed_over]),
            )
    raise BackendError(f"nothing in {bundle.path} can run here: {'; '.join(selection.passed_over)}")


class _Selection:
    """What is known in one load, and what was passed over."""

    def __init__(self, bundle: Bundle, cache: DeviceCache) -> None:
        self._bundle, self._cache = bundle, cache
        self._known = cache.findings()
        self.passed_over: list[str] = []

    @cached_property
    def _golden(self) -> GoldenSamples:
        return self._bundle.golden()

    def _finding(self, candidate: Candidate) -> Finding:
        return self._known.get(candidate.key(), Finding())

    def pass_over(self, reason: str) -> None:
        _log.warning("%s", reason)
        self.passed_over.append(reason)

    def contest(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those to choose from: all that need no building; and of a backend for which nothing is
        built yet the likeliest, because building takes minutes.
        """
        runnable = self._runnable(candidates)
        ready = [c for c in runnable if has_engine(c, self._bundle, self._cache)]
        served = {c.backend for c in ready}
        for candidate in runnable:
            if candidate.backend not in served:
                served.add(candidate.backend)
                ready.append(candidate)
        return [c for c in runnable if c in ready]

    def _runnable(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        backends = {c.backend.name: c.backend for c in candidates}
        problems = {name: backend.run_problem() for name, backend in backends.items()}
        for name, problem in problems.items():
            if problem:  # no warning: few devices have every backend
                _log.info("%s cannot run: %s", name, problem)
                self.passed_over.append(f"{name} cannot run: {problem}")
        return [c for c in candidates if not problems[c.backend.name]]

    def measure(self, contest: Sequence[Candidate]) -> None:
        """Checks and measures those of which nothing is known here yet."""
        for candidate in contest:
            finding = self._finding(candidate)
            if finding.refused:
                self.pass_over(
                    f"{candidate} was refused before (`vit-edge check` tries again): "
                    f"{finding.refused}"
                )
            elif finding.latency_ms is None:
                _log.info("measuring %s, once on this device", candidate)
                self._measure(candidate)

    def _measure(self, candidate: Candidate) -> None:
        spec, frame, key = self._bundle.manifest.spec, self._golden.images[:1], candidate.key()
        try:
            session = self.open(candidate)
            try:
                latency = measure_latency(lambda: run_frames(session, spec, frame), QUICK).p50_ms
            finally:
                session.close()
        except REFUSALS as error:
            self._cache.mark_refused(key, str(error))
            self._known[key] = Finding(refused=str(error))
            self.pass_over(f"{candidate} is not used: {error}")
        else:
            self._cache.store_latency(key, latency)
            self._known[key] = replace(self._finding(candidate), latency_ms=latency)

    def order(self, candidate: Candidate) -> tuple[bool, float]:
        """The fastest first, what was refused last."""
        finding = self._finding(candidate)
        return finding.refused is not None, finding.latency_ms or inf

    def open(self, candidate: Candidate) -> Session:
        """An engine whose golden answers are right here; checked at its first load."""
        session = open_session(candidate, self._bundle, self._cache)
        if self._finding(candidate).rms_error is not None:
            return session
        manifest = self._bundle.manifest
        graph = manifest.precisions[candidate.precision].graphs[candidate.backend.graph]
        try:
            metrics = require_golden(
                lambda images: run_frames(session, manifest.spec, images),
                self._golden,
                graph,
                str(candidate),
            )
        except BaseException:
            session.close()
            raise
        self._cache.mark_right(candidate.key(), metrics.rms_error)
        self._known[candidate.key()] = replace(
            self._finding(candidate), rms_error=metrics.rms_error, refused=None
        )
        return session

    def why(self, candidate: Candidate, contest: Sequence[Candidate]) -> str:
        """As far as latencies go."""
        latency = self._finding(candidate).latency_ms
        others = {c: self._finding(c).latency_ms for c in contest if c != candidate}
        slower = sorted((ms, str(c)) for c, ms in others.items() if ms is not None)
        if latency is None or not slower:
            return "the only one that can run here"
        return (
            f"fastest measured here at batch 1: {latency:.3g} ms, then {slower[0][1]} with "
            f"{slower[0][0]:.3g} ms"
        )
