"""Decides which engine to use on this device, and says why.

The latency of one image in flight decides; what is level with the fastest within noise is a tie,
and in a tie the answers that are nearer to the reference win. So a quantised engine is never
recommended for a speed that it does not have. `Engine.load` chooses by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...selection import AS_FAITHFUL, ROUNDING_ERROR, Standing, backend_place, preferred
from ..check import OK
from ..display import figures, mebibytes, percent
from ..measure.rounds import SINGLE_STREAM
from .comparison import REFERENCE, ComparedRow, Recommendation


def recommend(rows: Sequence[ComparedRow]) -> Recommendation:
    """The engine to use, judged at the smallest batch size that was measured."""
    right = [r for r in rows if r.status == OK and r.batch is not None and r.p50_ms is not None]
    if not right:
        return Recommendation(
            None, None, "Nothing in this bundle answers right here: do not use it on this device."
        )
    smallest = min(r.batch or 0 for r in right)
    rivals = sorted((r for r in right if r.batch == smallest), key=_latency)
    standings = {index: _standing(row) for index, row in enumerate(rivals)}
    level = [row for row, s in zip(rivals, standings.values(), strict=True) if s.is_level]
    best = rivals[preferred(standings)]
    level = level or [best]
    return Recommendation(best.precision, best.backend, _why(best, level, rivals, rows))


def _latency(row: ComparedRow) -> float:
    """Latency to sort by: the ratio measured round by round, which drift does not move."""
    assert row.p50_ms is not None
    return row.to_fastest.value if row.to_fastest else row.p50_ms


def _standing(row: ComparedRow) -> Standing:
    ratio = row.to_fastest
    behind = float("inf") if ratio is None else ratio.low
    return Standing(
        behind, row.rms_error, row.bytes or 0, (backend_place(row.backend), row.precision)
    )


def _error(row: ComparedRow) -> float:
    return float("inf") if row.rms_error is None else row.rms_error


def _why(
    best: ComparedRow,
    level: Sequence[ComparedRow],
    rivals: Sequence[ComparedRow],
    rows: Sequence[ComparedRow],
) -> str:
    parts = [f"{_speed(best)}, {_accuracy(best)}."]
    others = [row for row in level if row is not best]
    slower = next((row for row in rivals if row not in level), None)
    if others:
        parts.append(_tie(best, others))
    if slower is not None and slower.to_fastest is not None:
        parts.append(
            f"Next comes {_name(slower)} with {figures(slower.p50_ms)} ms, "
            f"{slower.to_fastest} times the fastest."
        )
    elif len(rivals) == 1:
        parts.append("It is the only one that is right here.")
    steadier = min(rivals, key=lambda row: row.p90_ms or 0.0)
    if _ends_below(steadier, best):
        parts.append(
            f"By p90, MLPerf's measure of a single stream, {_name(steadier)} is ahead with "
            f"{figures(steadier.p90_ms)} ms."
        )
    wrong = sorted({_name(row) for row in rows if row.status != OK})
    if wrong:
        parts.append(f"Not to be used: {', '.join(wrong)}.")
    return " ".join(parts)


def _ends_below(row: ComparedRow, other: ComparedRow) -> bool:
    """Tells whether its p90 is lower beyond noise."""
    if row.p90_interval is None or other.p90_interval is None:
        return False
    return row.p90_interval[1] < other.p90_interval[0]


def _speed(row: ComparedRow) -> str:
    single = row.scenario == SINGLE_STREAM
    what = "One image takes" if single else f"A batch of {row.batch} takes"
    faster = ""
    if row.speedup is not None and row.precision != REFERENCE:
        faster = f", {row.speedup} times as fast as fp32 on {row.backend}"
    return f"{what} {figures(row.p50_ms)} ms (p90 {figures(row.p90_ms)} ms){faster}"


def _accuracy(row: ComparedRow) -> str:
    agreement = "" if row.agreement is None else f"{percent(row.agreement)} agreement and "
    return f"with {agreement}a relative RMS error of {_error(row):.2g} on the golden samples"


def _tie(best: ComparedRow, others: Sequence[ComparedRow]) -> str:
    fastest = min((best, *others), key=_latency)
    names = " and ".join(_name(row) for row in others)
    verb = "is" if len(others) == 1 else "are"
    if all(_error(row) > max(AS_FAITHFUL * _error(best), ROUNDING_ERROR) for row in others):
        why = f"answers nearer to the reference decide (their error is {_error(others[0]):.2g})"
    elif any((row.bytes or 0) > (best.bytes or 0) for row in others):
        why = f"the smaller file decides ({mebibytes(best.bytes or 0)})"
    else:
        why = "the order of backends decides"
    ratio = (
        ""
        if fastest is best or best.to_fastest is None
        else (f", {best.to_fastest} times the latency of {_name(fastest)}")
    )
    return f"{names} {verb} level with it within noise{ratio}; {why}."


def _name(row: ComparedRow) -> str:
    return f"{row.precision} on {row.backend}"
