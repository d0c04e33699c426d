"""Judges the moments of a probe by its limits, in words."""

from __future__ import annotations

import numpy as np

from .fault import LOCAL, Fault
from .limits import CLIPPING, FAR_BEYOND, LITTLE_USED, MANY_CLIPPED, Limits, SegmentLimits, widen
from .moments import Moments, Range
from .probes import LINEAR, Probe


def judge(
    probe: Probe,
    moments: Moments,
    reads: Range | None,
    limits: Limits,
    plain: Moments | None = None,
) -> Fault | None:
    """The fault of a segment that is further from fp32 than its type explains, or None.

    Args:
        probe: Where the segment ends.
        moments: Its moments; finite.
        reads: What the quantiser before its last Linear saw, where there is one.
        limits: Of the precision.
        plain: The moments of the plain lowering of the same model, where they are known.
    """
    allowed, exact = _allowed(probe, reads, limits), limits.exact
    if plain is not None:
        allowed, exact = allowed.widened(_measures(plain)), widen(exact, plain.relative_error())
    if probe.exact:
        what = _over("relative error", moments.relative_error(), exact)
    else:
        what = _inexact(probe, moments, allowed)
    if what is None:
        return None
    return Fault(LOCAL, probe.module, probe.name, what + _cause(moments, reads, allowed))


def _allowed(probe: Probe, reads: Range | None, limits: Limits) -> SegmentLimits:
    allowed = limits.linear if probe.kind == LINEAR else limits.branch
    if probe.tokens == 1:
        allowed = allowed.times(limits.one_token)
    if reads is not None and reads.largest > FAR_BEYOND:
        allowed = allowed.times(CLIPPING)
    return allowed


def _measures(moments: Moments) -> SegmentLimits:
    """The measures that limits are on."""
    return SegmentLimits(
        error=moments.relative_error(),
        channel=float(moments.channel_errors().max()),
        gain=abs(moments.gain() - 1),
        channel_gain=float(moments.channel_gain_errors().max()),
        shift=moments.shift(),
    )


def _inexact(probe: Probe, moments: Moments, allowed: SegmentLimits) -> str | None:
    """The first measure that is over its limit, the most telling one first."""
    channels = probe.has_channels
    return (
        _over("the output gain is off by", abs(moments.gain() - 1), allowed.gain, ".2%")
        or _over("a constant shift of", moments.shift(), allowed.shift)
        or (_over_in_a_channel(moments, allowed.channel_gain) if channels else None)
        or _over("relative error", moments.relative_error(), allowed.error)
        or (_over_by_channel(moments, allowed.channel) if channels else None)
    )


def _over_by_channel(moments: Moments, limit: float) -> str | None:
    return _over("relative error of a channel", float(moments.channel_errors().max()), limit)


def _over_in_a_channel(moments: Moments, limit: float) -> str | None:
    beyond = moments.channel_gain_errors()
    worst = int(np.argmax(beyond))
    if beyond[worst] <= limit:
        return None
    off = abs(moments.channel_gains()[worst] - 1)
    return _over(f"the gain of channel {worst} is off by", off, limit, ".2%")


def _over(what: str, value: float, limit: float, style: str = ".2g") -> str | None:
    return None if value <= limit else f"{what} {value:{style}}, over the limit of {limit:{style}}"


def _cause(moments: Moments, reads: Range | None, allowed: SegmentLimits) -> str:
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
    gain, error = moments.gain(), moments.relative_error()
    unexplained = np.sqrt(max(error**2 - (gain - 1) ** 2, 0.0))
    if abs(gain) < 0.1 and unexplained < 0.1:
        return "; nothing of it is left: a dropped layer"
    if abs(gain - 1) > 2 * unexplained:
        return f"; it comes out {gain:.3g} times as large: a wrong scale"
    if moments.shift() > 0.8 * error:
        return "; most of it is a constant: a lost bias or a wrong zero point"
    wrong = int((moments.channel_gain_errors() > allowed.channel_gain).sum())
    if 0 < wrong <= max(1, len(moments.error) // 16):
        return f"; {wrong} of {len(moments.error)} channels are to blame: a scale of their own"
    return ""
