"""Verdicts on the rows of a model: faithful contenders, the best peer, and our lead over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from vit_edge.export.precision.base import EIGHT_BIT, SIXTEEN_BIT
from vit_edge.runtime.errors import InputError
from vit_edge.vit.variants import find_variant

from .contenders import BF16, FP32, INT8, TYPES
from .intervals import Latency, Lead, lead
from .peak import Peaks
from .subject import macs

MIN_COSINE = {FP32: 0.9999, BF16: SIXTEEN_BIT.min_cosine or 0, INT8: EIGHT_BIT.min_cosine or 0}
"""Least cosine of a row that counts as one of its class: fast and wrong is not fast."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A row of a table: one contender at one batch size.

    Attributes:
        counts: True if it is faithful enough to be compared with.
        lead: Lead over the best peer of its class.
        peak_share: Share of the machine's peak in its class, from 0 to 1; None if that is unknown.
    """

    name: str
    type: str
    is_ours: bool
    latency: Latency
    cosine: float
    agreement: float
    counts: bool
    lead: Lead | None
    peak_share: float | None


@dataclass(frozen=True)
class Verdict:
    """Our fastest of a class against the best peer of that class."""

    type: str
    ours: str
    peer: str
    lead: Lead


def batches(model: Row) -> list[str]:
    """Lists the measured batch sizes."""
    return sorted({b for row in model["rows"] for b in row["batches"]}, key=int)


def lines(model: Row, batch: str, peaks: Peaks) -> list[Line]:
    """Lists all that ran, class by class, the fastest first."""
    ran = [row for row in model["rows"] if batch in row["batches"]]
    best = {row["type"]: peer for row in ran if (peer := best_peer(ran, batch, row["type"]))}
    made = [
        _line(row, batch, best.get(row["type"]), _share(model["model"], row, batch, peaks))
        for row in ran
    ]
    return sorted(made, key=lambda line: (TYPES.index(line.type), line.latency.p50_ms))


def verdicts(model: Row, batch: str) -> Iterator[Verdict]:
    """Yields a verdict on each class in which both sides have a contender that counts."""
    ran = [row for row in model["rows"] if batch in row["batches"]]
    for type_ in TYPES:
        ours, peer = best_of_ours(ran, batch, type_), best_peer(ran, batch, type_)
        if ours and peer:
            yield Verdict(
                type_,
                ours["contender"],
                peer["contender"],
                lead(_rounds(ours, batch), _rounds(peer, batch)),
            )


def best_peer(rows: list[Row], batch: str, type_: str) -> Row | None:
    """Returns the fastest peer that counts; None if there is none."""
    return _fastest([row for row in rows if not row["is_ours"]], batch, type_)


def best_of_ours(rows: list[Row], batch: str, type_: str) -> Row | None:
    return _fastest([row for row in rows if row["is_ours"]], batch, type_)


def _fastest(rows: list[Row], batch: str, type_: str) -> Row | None:
    fit = [row for row in rows if row["type"] == type_ and counts(row)]
    return min(fit, key=lambda row: float(row["batches"][batch]["p50_ms"]), default=None)


def counts(row: Row) -> bool:
    return bool(row["accuracy"]["cosine"] >= MIN_COSINE[row["type"]])


def _line(row: Row, batch: str, peer: Row | None, share: float | None) -> Line:
    measured = row["batches"][batch]
    return Line(
        name=row["contender"],
        type=row["type"],
        is_ours=row["is_ours"],
        latency=Latency(**{f.name: measured[f.name] for f in fields(Latency)}),
        cosine=row["accuracy"]["cosine"],
        agreement=row["accuracy"]["agreement"],
        counts=counts(row),
        lead=lead(_rounds(row, batch), _rounds(peer, batch)) if peer else None,
        peak_share=share,
    )


def _rounds(row: Row, batch: str) -> list[float]:
    rounds: list[float] = row["batches"][batch]["rounds_ms"]
    return rounds


def _share(model: str, row: Row, batch: str, peaks: Peaks) -> float | None:
    peak = peaks.by_type.get(row["type"])
    if peak is None:
        return None
    seconds = row["batches"][batch]["p50_ms"] / 1e3
    done: int = int(batch) * macs(find_variant(model).config)
    return float(done / seconds / (1e9 * peak.all_gmacs))


def require_report(report: Row) -> None:
    """Raises InputError for JSON that `benchmarks.speed` did not write."""
    missing = [key for key in ("machine", "peaks", "models") if key not in report]
    if missing:
        raise InputError(f"this is no report of benchmarks.speed: it has no {', '.join(missing)}")
