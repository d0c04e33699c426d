"""Tunes a bundle on this device: of each precision on each backend the fastest variant is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from ...bundle import Bundle
from ...deployment import Candidate, Deployment, Opened
from ...errors import BackendError, EngineError
from ...selection import LEVEL
from ..check import FAILED, OK, list_runnable
from ..compare.contest import SINGLE, schedule_for
from ..compare.run import busy_notes, require_measurable
from ..display import say
from ..measure.interference import Interference, InterferenceWatch
from ..measure.machine import Machine, describe_machine
from ..measure.rounds import Schedule, Series
from ..measure.statistics import Estimate
from .kept import forget_variant, keep_variant
from .trials import DEFAULT, Bench, VariantTrial, counts, overall, shortcoming
from .variants import FindForms, Proposal, join, propose_settings

SECONDS = 2.0
"""Time that each variant is measured at each batch size, unless the user says otherwise."""
MOST_FORMS = 3
"""Engines that are built of one candidate: those of the least estimated cost."""
_FINALISTS = 3
KEPT = "kept"


@dataclass(frozen=True)
class TunedRow:
    """A variant at a batch size, or one that could not be measured.

    Attributes:
        variant: Its name; "default" for the way in which the backend runs by itself.
        status: "ok" for the default, "kept", or why it was not kept.
        gain: How many times as fast as the default it is, with its interval.
        rms_error: Of the golden samples, relative, the largest of the outputs; None if it is not
            finite, or was not measured.
        golden: "right", "wrong", or "-" where it could not be tried.
        about: What was known of it before.
    """

    precision: str
    backend: str
    variant: str
    status: str
    batch: int | None = None
    p50_ms: float | None = None
    gain: Estimate | None = None
    rms_error: float | None = None
    golden: str = "-"
    about: str = ""


@dataclass(frozen=True)
class Tuning:
    """All that was tried.

    Attributes:
        kept: Name of the variant that each candidate runs in from now on, by its precision and
            backend ("int8 on openvino"); None where the default stays.
        not_tuned: Why forms of the graph were not tried, by the same names.
        not_run: Why other backends cannot run here, by their names.
        seconds: How long each variant was measured.
    """

    name: str
    bundle: str
    rows: tuple[TunedRow, ...]
    kept: dict[str, str | None]
    not_tuned: dict[str, str]
    not_run: dict[str, str]
    notes: tuple[str, ...]
    machine: Machine
    interference: Interference
    seconds: float

    @property
    def good(self) -> bool:
        """True if every default answers right."""
        return all(row.status == OK for row in self.rows if row.variant == DEFAULT)


def tune_bundle(
    bundle: Bundle,
    batches: Sequence[int],
    seconds: float,
    precisions: Sequence[str] = (),
    backends: Sequence[str] = (),
    schedule: Callable[[int, float], Schedule] = schedule_for,
    threads: int | None = None,
    find_forms: FindForms | None = None,
) -> Tuning:
    """Measures variants of what runs here and keeps the fastest of each in the device's cache.

    Args:
        bundle: What is tuned.
        batches: Batch sizes, each at least 1.
        seconds: The least time that each variant is measured at each batch size.
        precisions: Which; empty is all.
        backends: Which; empty is all.
        schedule: How often and how long, by batch size and `seconds`.
        threads: CPU threads that compute; None is what suits the machine.
        find_forms: Proposes other forms of a graph for backends that need engines; None where that
            is not installed.

    Raises:
        InputError: for batch sizes, times or names that cannot be.
        BackendError: if nothing can run here, or nothing could be kept.
    """
    require_measurable(batches, seconds)
    deployment = Deployment(bundle, threads)
    runnable = list_runnable(deployment, precisions, backends)
    require_kept(deployment)
    candidates = [candidate.default for candidate in runnable.candidates]
    versions = {c.backend.name: c.backend.version() for c in candidates}
    machine, watch = describe_machine(versions.items()), InterferenceWatch()
    sizes = sorted(set(batches))
    rows, kept, not_tuned = list[TunedRow](), dict[str, str | None](), dict[str, str]()
    for candidate in candidates:
        say(f"tuning {candidate} ...")
        try:
            opened = deployment.open_checked(candidate)
            with closing(opened.session):
                proposals, problem = _propose(deployment, candidate, opened, sizes, find_forms)
                bench = Bench(deployment, opened, sizes, lambda batch: schedule(batch, seconds))
                trials, best = _tune(bench, proposals)
        except (BackendError, EngineError) as error:
            names = candidate.precision, candidate.backend.name
            rows.append(TunedRow(*names, DEFAULT, f"{FAILED}: {error}"))
            continue
        if problem:
            not_tuned[str(candidate)] = problem
        _keep(deployment, candidate, best, bench)
        kept[str(candidate)] = None if best is None else best.name
        rows += _rows(bench, trials, best)
    interference = watch.read()
    return Tuning(
        name=bundle.manifest.name,
        bundle=bundle.digest,
        rows=tuple(rows),
        kept=kept,
        not_tuned=not_tuned,
        not_run=runnable.not_run,
        notes=tuple(busy_notes(interference)),
        machine=machine,
        interference=interference,
        seconds=seconds,
    )


def require_kept(deployment: Deployment) -> None:
    """Raises BackendError if the device's cache cannot be written."""
    problem = deployment.cache.problem()
    if problem is not None:
        raise BackendError(
            f"nothing could be kept: {deployment.cache.folder} cannot be written ({problem}); "
            "XDG_CACHE_HOME names another place"
        )


def _propose(
    deployment: Deployment,
    candidate: Candidate,
    opened: Opened,
    batches: Sequence[int],
    find_forms: FindForms | None,
) -> tuple[Sequence[Proposal], str]:
    """Lists what to try of a candidate, and the reason if it cannot be found out."""
    if not candidate.backend.needs_engine:
        return propose_settings(candidate, opened.session, batches), ""
    if find_forms is None:
        return (), "other forms of a graph need the package's part `export`"
    try:
        return find_forms(deployment, candidate, batches[0], MOST_FORMS), ""
    except (BackendError, EngineError) as error:
        return (), str(error)


def _tune(
    bench: Bench, proposals: Sequence[Proposal]
) -> tuple[Sequence[VariantTrial], VariantTrial | None]:
    """Tries all proposals, then the promising ones once more and all of them together.

    Returns:
        What was found of each, and the one to keep; None where none counts.
    """
    if bench.default.problem is not None:
        return (), None
    trials = {trial.name: trial for trial in bench.try_all(proposals)}
    promising = sorted(
        (t for t in trials.values() if not t.problem and counts(t.gains)),
        key=lambda t: overall(t.gains),
        reverse=True,
    )
    if not promising:
        return list(trials.values()), None
    finalists = [trial.proposal for trial in promising[:_FINALISTS]]
    if finalists[0].build is None:  # an engine is of one form
        together = join([trial.proposal.variant for trial in promising])
        finalists += [] if together is None else [Proposal(together)]
    finals = bench.try_all(finalists)
    trials |= {trial.name: trial for trial in finals}
    faster = [t for t in finals if not t.problem and counts(t.gains)]
    return list(trials.values()), _preferred(faster)


def _preferred(faster: Sequence[VariantTrial]) -> VariantTrial | None:
    """Returns the fastest of those that count; of those that are level with it the one that changes
    the fewest settings, so that noise does not decide between them.
    """
    top = max((overall(trial.gains) for trial in faster), default=0.0)
    level = [trial for trial in faster if overall(trial.gains) * LEVEL > top]
    return min(level, key=lambda t: (t.changes, -overall(t.gains)), default=None)


def _keep(
    deployment: Deployment, candidate: Candidate, best: VariantTrial | None, bench: Bench
) -> None:
    """Keeps the best variant of a candidate; where there is none, forgets the one before."""
    if best is None:
        forget_variant(deployment, candidate)
        return
    assert best.opened is not None
    variant = replace(best.proposal.variant, gain=overall(best.gains))
    opened = best.opened._replace(candidate=replace(candidate, variant=variant))
    gain = best.gains.get(SINGLE)
    single = None if gain is None else (gain.value, (gain.low, gain.high))
    keep_variant(deployment, opened, bench.built(best), single)


def _rows(
    bench: Bench, trials: Sequence[VariantTrial], best: VariantTrial | None
) -> Iterator[TunedRow]:
    """Rows of the default and of everything that was tried, for each batch size."""
    default = bench.default
    names = default.candidate.precision, default.candidate.backend.name
    status = OK if default.problem is None else f"{FAILED}: {default.problem}"
    row = TunedRow(*names, DEFAULT, status)
    yield from _of_sizes(_checked(row, default), bench.default_series)
    for trial in trials:
        status = KEPT if trial is best else trial.problem or shortcoming(trial.gains)
        status = status or _behind(trial, best)
        row = TunedRow(*names, trial.name, status, about=trial.proposal.about)
        for sized in _of_sizes(_checked(row, trial.opened), trial.series):
            yield replace(sized, gain=trial.gains.get(sized.batch or 0))


def _behind(trial: VariantTrial, best: VariantTrial | None) -> str:
    """Says why a variant that counts is not kept."""
    if best is None:
        return "behind those that were measured again"
    if overall(trial.gains) * LEVEL > overall(best.gains):
        return f"level with {best.name}"
    return f"behind {best.name}"


def _checked(row: TunedRow, opened: Opened | None) -> TunedRow:
    """The row with what the golden samples told."""
    if opened is None:
        return row
    error, golden = opened.rms_error, "right" if opened.problem is None else "wrong"
    return replace(row, golden=golden, rms_error=error if isfinite(error) else None)


def _of_sizes(row: TunedRow, series: Mapping[int, Series]) -> Iterator[TunedRow]:
    if not series:
        yield row
    for batch, one in series.items():
        yield replace(row, batch=batch, p50_ms=float(np.median(one.calls)))
