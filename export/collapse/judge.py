"""Moments of a place against its limits, in words."""

from __future__ import annotations

import numpy as np

from .fault import LOCAL, Fault
from .limits import CLIPPING, FAR_BEYOND, LITTLE_USED, MANY_CLIPPED, Limits, SegmentLimits
from .moments import Moments, Range
from .places import BRANCH, EMBEDDING, OUTPUT, Place


def judge(place: Place, found: Moments, reads: Range | None, limits: Limits) -> Fault | None:
    """The fault of a stretch that is further from fp32 than its type explains, or None.

    Args:
        place: Where the stretch ends.
        found: Its moments; finite.
        reads: What the quantiser before its last Linear saw, where there is one.
        limits: Of the precision.
    """
    allowed = _allowed(place, reads, limits)
    if place.kind in (EMBEDDING, OUTPUT):
        what = _over("relative error", found.relative_error(), limits.exact)
    else:
        what = _inexact(found, allowed)
    if what is None:
        return None
    return Fault(LOCAL, place.module, place.name, what + _cause(found, reads, allowed))


def _allowed(place: Place, reads: Range | None, limits: Limits) -> SegmentLimits:
    allowed = limits.branch if place.kind == BRANCH else limits.linear
    if place.tokens == 1:
        allowed = allowed.times(limits.one_token)
    if place.kind == BRANCH and reads is not None and reads.largest > FAR_BEYOND:
        allowed = allowed.times(CLIPPING)
    return allowed


def _inexact(found: Moments, allowed: SegmentLimits) -> str | None:
    """The first measure that is over its limit, the most telling one first."""
    off = _off(found)
    worst = int(np.argmax(off))
    return (
        _over("all of it is scaled wrongly, by", abs(found.gain() - 1), allowed.gain)
        or _over("a constant shift of", found.shift(), allowed.shift)
        or _over(f"channel {worst} is scaled wrongly, by", off[worst], allowed.channel_gain)
        or _over("relative error", found.relative_error(), allowed.error)
        or _over("relative error of a channel", found.channel_errors().max(), allowed.channel)
    )


def _over(what: str, value: float, limit: float) -> str | None:
    return None if value <= limit else f"{what} {value:.2g}, over the limit of {limit:.2g}"


def _off(found: Moments) -> np.ndarray:
    off: np.ndarray = np.abs(found.channel_gains() - 1)
    return off


def _cause(found: Moments, reads: Range | None, allowed: SegmentLimits) -> str:
    if reads is not None and reads.clipped > MANY_CLIPPED:
        return (
            f"; {reads.clipped:.0%} of what its Linear reads is clipped: a range that is too small,"
            " from a stale or foreign calibration table"
        )
    if reads is not None and reads.largest < LITTLE_USED:
        return (
            f"; what its Linear reads uses {reads.largest:.0%} of its grid: a range that is too "
            "large, for outliers or from a foreign calibration table"
        )
    gain, error = found.gain(), found.relative_error()
    unexplained = np.sqrt(max(error**2 - (gain - 1) ** 2, 0.0))
    if abs(gain) < 0.1 and unexplained < 0.1:
        return "; nothing of it is left: a dropped layer"
    if abs(gain - 1) > 2 * unexplained:
        return f"; it comes out {gain:.3g} times as large: a wrong scale"
    if found.shift() > 0.8 * error:
        return "; most of it is a constant: a lost bias or a wrong zero point"
    wrong = int((_off(found) > allowed.channel_gain).sum())
    if 0 < wrong <= max(1, len(found.error) // 16):
        return f"; {wrong} of {len(found.error)} channels are to blame: a scale of their own"
    return ""
