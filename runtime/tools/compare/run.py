"""The whole comparison: from a bundle to the numbers and the recommendation, with the loss by
quantising each layer from the export's report beside the bundle.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...deployment import Deployment
from ...errors import BundleError, InputError
from ...files import Folder
from ...manifest import Graph
from ...schema import SchemaError, decode, parse_json
from ..check import OK, list_runnable, tuned_notes
from ..measure.interference import Interference, InterferenceWatch
from ..measure.machine import describe_machine
from ..measure.rounds import Schedule
from ..profile.slow import explain_slow
from .comparison import (
    REPORT_VERSION,
    ComparedRow,
    Comparison,
    LayerSensitivity,
    compare_rows,
    distributions,
)
from .contest import SINGLE, Measured, hold_contest, schedule_for
from .recommend import recommend

_log = logging.getLogger("vit_edge.runtime")
_MOST_BYTES = 16 << 20
_MOST_UNITS = 2000


def read_sensitivities(bundle: Bundle) -> dict[str, tuple[LayerSensitivity, ...]]:
    """The parts of each quantised precision, in graph order; empty where there is no report of this
    very bundle beside it. Nobody vouches for the report: it is read as strictly as a manifest.
    """
    path = Path(bundle.path).resolve()
    folder = path.with_name(f"{path.name}.report")
    if not folder.is_dir():
        return {}
    try:
        report = parse_json(Folder.open(folder).read("report.json", _MOST_BYTES))
        results = {r["precision"]: r for r in report["results"]}
        if not _belongs(results, bundle):
            return {}
        losses = {name: _units(results[name]) for name in bundle.manifest.precisions}
    except (BundleError, SchemaError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("the export's report in %s is not used: %s", folder, str(error)[:200])
        return {}
    return {name: units for name, units in losses.items() if units}


def _belongs(results: dict[str, Any], bundle: Bundle) -> bool:
    """Tells whether the report measured what the bundle's manifest says, to the last digit."""
    for name, entry in bundle.manifest.precisions.items():
        if name not in results:
            return False
        measured = {kind: graph["outputs"] for kind, graph in results[name]["graphs"].items()}
        if measured != {kind: _figures(graph) for kind, graph in entry.graphs.items()}:
            return False
    return True


def _figures(graph: Graph) -> dict[str, Any]:
    return {name: dataclasses.asdict(accuracy) for name, accuracy in graph.accuracy.items()}


def _units(result: Any) -> tuple[LayerSensitivity, ...]:
    units = result["sensitivities"]
    if not isinstance(units, list) or len(units) > _MOST_UNITS:
        raise SchemaError("sensitivities is not a list of a model's parts")
    return tuple(decode(LayerSensitivity, unit) for unit in units)


PROFILE_SECONDS = 0.5
"""How long an engine is profiled that is not faster than a higher precision."""
_MOST_SECONDS = 24 * 3600.0


def compare_bundle(
    bundle: Bundle,
    batches: Sequence[int],
    seconds: float,
    precisions: Sequence[str] = (),
    backends: Sequence[str] = (),
    schedule: Callable[[int, float], Schedule] = schedule_for,
    threads: int | None = None,
) -> Comparison:
    """Measures what runs here and recommends one. The device remembers the latencies.

    Args:
        bundle: What is compared.
        batches: Batch sizes, each at least 1.
        seconds: The least time that each engine is measured at each batch size.
        precisions: Which; empty is all.
        backends: Which; empty is all.
        schedule: How often and how long, by batch size and `seconds`.
        threads: CPU threads that compute; None is what suits the machine.

    Raises:
        InputError: for batch sizes, times or names that cannot be.
        BackendError: if nothing can run here.
    """
    require_measurable(batches, seconds)
    deployment = Deployment(bundle, threads)
    runnable = list_runnable(deployment, precisions, backends)
    versions = {c.backend.name: c.backend.version() for c in runnable.candidates}
    machine, watch = describe_machine(versions.items()), InterferenceWatch()
    measured = hold_contest(
        deployment, runnable.candidates, sorted(set(batches)), lambda n: schedule(n, seconds)
    )
    interference = watch.read()
    rows = tuple(compare_rows(measured))
    _remember(rows, measured, deployment)
    not_faster = explain_slow(deployment, measured, PROFILE_SECONDS)
    return Comparison(
        version=REPORT_VERSION,
        name=bundle.manifest.name,
        bundle=bundle.digest,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        rows=rows,
        not_run=runnable.not_run,
        recommendation=recommend(rows),
        notes=tuple(_notes(rows, interference)),
        distributions=tuple(distributions(measured)),
        sensitivities=read_sensitivities(bundle),
        machine=machine,
        interference=interference,
        seconds=seconds,
        devices={c.backend.name: c.backend.device() for c in runnable.candidates},
        not_faster=not_faster,
    )


def require_measurable(batches: Sequence[int], seconds: float) -> None:
    """Raises InputError for batch sizes or times that cannot be measured."""
    if any(batch < 1 for batch in batches):
        raise InputError(f"--batch {min(batches)}: a batch has at least one image")
    if not 0 < seconds <= _MOST_SECONDS:
        raise InputError(f"--seconds {seconds:g}: not between 0 and {_MOST_SECONDS:.0f}")


def _remember(
    rows: Sequence[ComparedRow], measured: Sequence[Measured], deployment: Deployment
) -> None:
    """`Engine.load` uses these medians from now on, instead of its own quick ones, with the
    intervals of their ratios, so that it finds the same ones level.
    """
    single = [
        (row, m.candidate, row.p50_ms)
        for row, m in zip(rows, measured, strict=True)
        if row.batch == SINGLE and row.status == OK and row.p50_ms is not None
    ]
    fastest = min((p50 for _, _, p50 in single), default=0.0)
    for row, candidate, p50 in single:
        interval = (p50, p50)
        if row.to_fastest is not None:
            interval = row.to_fastest.low * fastest, row.to_fastest.high * fastest
        deployment.remember_latency(candidate, p50, interval)


def _notes(rows: Sequence[ComparedRow], interference: Interference) -> list[str]:
    """Lists what a reader has to know before believing the numbers."""
    notes = busy_notes(interference) + tuned_notes(rows)
    groups = {row.group for row in rows if row.group is not None}
    if len(groups) > 1:
        notes.append(
            f"Memory did not hold all engines at once: they ran in {len(groups)} groups, one after "
            "the other, so that drift between groups counts in their ratios' intervals only as far "
            "as it shows within a group."
        )
    return notes


def busy_notes(interference: Interference) -> list[str]:
    """Says that other programs have disturbed a measurement, where they did."""
    if not interference.busy:
        return []
    return [f"The machine was busy: {_others(interference)}. Re-run on an idle machine."]


def _others(interference: Interference) -> str:
    if interference.others is None or interference.stolen is None:
        return f"load average {interference.load_before:.2f} on {interference.cores} cores before"
    stolen = interference.stolen
    return (
        f"other processes used {interference.others:.2f} of {interference.cores} cores"
        + (f", other guests {stolen:.2f}" if stolen >= 0.01 else "")
        + f", load average {interference.load_before:.2f} before"
    )
