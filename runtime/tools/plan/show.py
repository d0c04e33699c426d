"""An engine's plan, and its estimated latencies, as text for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vit_edge.runtime.manifest import PlanSummary

from .devices import Device
from .engine_plan import EnginePlan
from .estimate import HIGH, LOW, LatencyEstimate, estimate

PLAN_COLUMNS = (
    "Linear work in", "attention fused", "kernels", "a block", "dequantised", "copies", "waits",
    "moved", "as asked",
)  # fmt: skip
ESTIMATE_COLUMNS = ("device", "precision", "batch", "ms", "from", "to", "images/s", "bound by")
NOTE = (
    f"Estimates from the builder's plan, not measurements: most often a device takes {LOW} to "
    f"{HIGH} times as long."
)
_WIDE = ("fp16", "bf16", "fp32")
"""Precisions that are not quantised, the first one that is there being compared with."""
_PAYS = 1.1


def plan_cells(summary: PlanSummary | None) -> tuple[str, ...]:
    """The cells of `PLAN_COLUMNS`."""
    if summary is None:
        return ("not listed by its builder", *["-"] * (len(PLAN_COLUMNS) - 1))
    moved = "-"
    if summary.bytes is not None:
        moved = f"{summary.bytes / 1e6:.0f} MB" + (f" at {summary.batch}" if summary.batch else "")
    block = summary.kernels_per_block
    return (
        shares(summary.linear_work),
        f"{summary.fused_attentions} of {summary.attentions}",
        str(summary.kernels),
        "-" if block is None else f"{block:g}",
        str(len(summary.dequantised)),
        str(summary.copies),
        str(summary.waits),
        moved,
        shortfall(summary) or "yes",
    )


def shares(work: Mapping[str, float]) -> str:
    """Formats shares, for example "int8 95 %, fp16 5 %"; what rounds to nothing is left out."""
    most_first = sorted(work.items(), key=lambda item: -item[1])
    parts = [f"{kind} {100 * share:.0f} %" for kind, share in most_first if share >= 0.005]
    return ", ".join(parts) or "-"


def shortfall(summary: PlanSummary) -> str:
    """Names the layers that do not run as the graph asks; "" if all do."""
    named = [
        *summary.unmet,
        *(f"{layer} dequantised at each call" for layer in summary.dequantised),
    ]
    more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
    return f"{named[0]}{more}" if named else ""


@dataclass(frozen=True)
class EstimateRow:
    """A precision's estimated latency on a device; None where its plan does not allow one."""

    device: str
    precision: str
    batch: int
    estimate: LatencyEstimate | None


def estimate_rows(
    plans: Mapping[str, EnginePlan], devices: Sequence[Device]
) -> tuple[EstimateRow, ...]:
    """Of each device, batch size and precision, whose plans are given by name."""
    return tuple(
        EstimateRow(device.name, precision, at.batch, estimate(at.layers, at.batch, device))
        for device in devices
        for batch in sorted({at.batch for plan in plans.values() for at in plan.batches})
        for precision, plan in plans.items()
        for at in plan.batches
        if at.batch == batch
    )


def estimate_cells(row: EstimateRow) -> tuple[str, ...]:
    """The cells of `ESTIMATE_COLUMNS`."""
    names, one = (row.device, row.precision, str(row.batch)), row.estimate
    if one is None:
        return (*names, "no units for it", "-", "-", "-", "-")
    times = (one.milliseconds, LOW * one.milliseconds, HIGH * one.milliseconds)
    texts = (_milliseconds(time) for time in times)
    return (*names, *texts, f"{one.images_per_second:.0f}", one.bound)


def _milliseconds(time: float) -> str:
    return f"{time:.2f}" if time < 10 else f"{time:.1f}"


def advice(rows: Sequence[EstimateRow]) -> tuple[str, ...]:
    """For each device and batch size the fastest precision, what the quantised ones gain over 16
    bits, and what most of their time goes into where that is little.
    """
    lines = []
    for device, batch in dict.fromkeys((row.device, row.batch) for row in rows):
        known = {
            row.precision: row.estimate
            for row in rows
            if (row.device, row.batch) == (device, batch) and row.estimate is not None
        }
        wide = next((name for name in _WIDE if name in known), None)
        if wide is not None and len(known) > 1:
            fastest = min(known, key=lambda name: known[name].milliseconds)
            gains = (_gain(n, known[n], wide, known[wide]) for n in known if n not in _WIDE)
            lines.append(
                f"{device}, batch {batch}: {'; '.join((f'{fastest} is the fastest', *gains))}"
            )
    return tuple(lines)


def _gain(name: str, one: LatencyEstimate, wide: str, other: LatencyEstimate) -> str:
    """Says how much faster a quantised precision is, and why no more."""
    gain = other.milliseconds / one.milliseconds
    text = f"{name} takes {1 / gain:.2f} of {wide}'s time"
    if gain >= _PAYS:
        return text
    parts = {"memory": one.moving, "arithmetic": one.multiplying, "launches": one.launching}
    return f"{text}, {parts[one.bound]:.0%} of which is {one.bound}"
