"""Devices of a page: their names, their engines and which of these nothing beats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..check import OK
from ..compare.comparison import ComparedRow, Comparison

LEAST_ERROR = 1e-8
"""Smaller errors, and none at all, are drawn as this one."""


@dataclass(frozen=True)
class DeviceReport:
    """A comparison under a name that no other of the page has."""

    name: str
    comparison: Comparison

    @property
    def engines(self) -> list[ComparedRow]:
        """The rows of the smallest batch size that was measured, the fastest first."""
        measured = [r for r in self.comparison.rows if r.batch is not None and r.p50_ms is not None]
        smallest = min((row.batch or 0 for row in measured), default=0)
        return sorted((r for r in measured if r.batch == smallest), key=latency)

    def is_chosen(self, row: ComparedRow) -> bool:
        """Returns true for the rows of the engine that is recommended on this device."""
        chosen = self.comparison.recommendation
        return (row.precision, row.backend) == (chosen.precision, chosen.backend)

    def best_rate(self, row: ComparedRow) -> ComparedRow:
        """Returns the row of the same engine at the batch size with the most images per second."""
        same = [
            r
            for r in self.comparison.rows
            if (r.precision, r.backend) == (row.precision, row.backend)
        ]
        return max(same, key=lambda r: r.images_per_s or 0.0)


def name_devices(comparisons: Sequence[Comparison]) -> list[DeviceReport]:
    """Names each by its hardware, and where that is not enough by the first facts that differ."""
    devices = [DeviceReport(_hardware(c), c) for c in comparisons]
    facts: tuple[Callable[[Comparison], str], ...] = (
        lambda c: c.name,
        lambda c: moment(c.made),
        lambda c: f"bundle {c.bundle[:8]}",
    )
    for fact in facts:
        values: dict[str, set[str]] = {}
        for device in devices:
            values.setdefault(device.name, set()).add(fact(device.comparison))
        devices = [
            replace(d, name=f"{d.name} · {fact(d.comparison)}") if len(values[d.name]) > 1 else d
            for d in devices
        ]
    counts, seen = Counter(d.name for d in devices), Counter[str]()
    for i, device in enumerate(devices):
        seen[device.name] += 1
        if counts[device.name] > 1:
            devices[i] = replace(device, name=f"{device.name} · no. {seen[device.name]}")
    return devices


def _hardware(comparison: Comparison) -> str:
    """Names the hardware, for example "NVIDIA L4 (8.9), AMD EPYC 9B45 (x86_64, 8 cores)"."""
    names = [*sorted(set(comparison.devices.values())), comparison.machine.cpu]
    return ", ".join(dict.fromkeys(names, None)) if len(set(names)) > 1 else names[-1]


def moment(made: str) -> str:
    """Time of the measurement, for example "2026-11-24 22:43 UTC"."""
    return f"{made[:10]} {made[11:16]} UTC"


def engine_name(row: ComparedRow) -> str:
    """Names an engine, for example "int8 · openvino"."""
    return f"{row.precision} · {row.backend}"


def latency(row: ComparedRow) -> float:
    """The median in milliseconds."""
    return row.p50_ms or 0.0


def error(row: ComparedRow) -> float:
    """The error as it is drawn, on a logarithmic axis."""
    return max(row.rms_error or 0.0, LEAST_ERROR)


def pareto(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """Lists the rows that are right and that no other beats in latency and error; fastest first."""
    front: list[ComparedRow] = []
    right = (row for row in rows if row.status == OK and row.rms_error is not None)
    for row in sorted(right, key=lambda r: (latency(r), error(r))):
        if not front or error(row) < error(front[-1]):
            front.append(row)
    return front
