"""Moments of a probe's error, which tell its size and kind, and their comparison with limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_edge.export.measure import iter_outputs
from vit_edge.runtime.tools.images import ImageSet

from .joined import JoinedGraph
from .limits import (
    CLIPPING,
    FAR_BEYOND,
    LITTLE_USED,
    LOCAL,
    MANY_CLIPPED,
    Fault,
    Limits,
    SegmentLimits,
    widen_limits,
)
from .probes import LINEAR, Probe

Floats = NDArray[np.float64]

QUIET = 0.1
"""Part of the mean signal that is added to every channel's, so that an error in a channel with
hardly any signal is not blown up.
"""
_CHANCE = 3.0
"""Standard errors of a gain that chance may explain."""
_TINY = 1e-30


@dataclass(frozen=True)
class Moments:
    """Means over images and tokens, each float64 `[channels]`.

    `expected` is what the fp32 piece makes of the lowering's own input (for a branch: without the
    stream that it is added to), `error` the lowering's result minus that. `rounding` counts as
    signal beside `expected_squared`, so that rounding of the stream alone breaks no limit.
    `samples` is the number of images times that of tokens.
    """

    expected: Floats
    expected_squared: Floats
    error: Floats
    error_squared: Floats
    product: Floats
    rounding: Floats
    samples: int

    def relative_error(self) -> float:
        """RMS error relative to RMS signal."""
        return float(np.sqrt(self.error_squared.sum() / self._signal().sum()))

    def channel_errors(self) -> Floats:
        """The same for each channel."""
        errors: Floats = np.sqrt(self.error_squared / self._loud_signal())
        return errors

    def gain(self) -> float:
        """The factor from the expected to the actual result, by least squares."""
        return float(1 + self.product.sum() / self._signal().sum())

    def channel_gains(self) -> Floats:
        """The same for each channel; the gain of a quiet channel is pulled towards 1."""
        gains: Floats = 1 + self.product / self._loud_signal()
        return gains

    def channel_gain_errors(self) -> Floats:
        """Distance of each channel's gain from 1, minus what chance explains: in a channel that the
        images hardly excite, such as a pixel after a ReLU, rounding alone changes the gain.
        """
        scattered = np.maximum(self.error_squared - self.product**2 / self._signal(), 0)
        chance = _CHANCE * np.sqrt(scattered / self._loud_signal() / self.samples)
        beyond: Floats = np.maximum(np.abs(self.channel_gains() - 1) - chance, 0)
        return beyond

    def shift(self) -> float:
        """The part of the error that is the same for all images and tokens, relative to RMS
        signal.
        """
        return float(np.sqrt((self.error**2).sum() / self._signal().sum()))

    def _signal(self) -> Floats:
        signal: Floats = np.maximum(self.expected_squared + self.rounding, _TINY)
        return signal

    def _loud_signal(self) -> Floats:
        signal = self._signal()
        loud: Floats = signal + QUIET * signal.mean()
        return loud


@dataclass(frozen=True)
class Range:
    """Largest input of a quantiser, relative to the end of its grid, and the share it clipped."""

    largest: float
    clipped: float


@dataclass(frozen=True)
class Observed:
    """Result of a pass over the images.

    Attributes:
        outputs: float32 `[N, width]`, the lowering's.
        sums: For each probe, float64 `[6, channels]`, see `export.collapse.joined.JoinedGraph`.
        ranges: By the name, in the fp32 graph, of the tensor that is quantised.
    """

    outputs: NDArray[np.float32]
    probes: tuple[Probe, ...]
    sums: tuple[Floats, ...]
    ranges: dict[str, Range]


def observe(joined: JoinedGraph, images: ImageSet) -> Observed:
    """Runs the joined graph over the images.

    Raises:
        EngineError: if it does not run.
    """
    probes = len(joined.probes)
    outputs: list[NDArray[np.float32]] = []
    totals = [np.zeros(()) for _ in joined.probes]
    ranges: list[Floats] = []
    for first, *rest in iter_outputs(joined.model, images):
        outputs.append(first)
        with np.errstate(invalid="ignore"):  # values that are not finite are found later
            totals = [a + b.astype(np.float64) for a, b in zip(totals, rest, strict=False)]
        ranges.append(np.array(rest[probes:], np.float64).reshape(-1, 2))
    return Observed(
        np.concatenate(outputs),
        joined.probes,
        tuple(totals),
        _summarise(joined.quantisers, ranges),
    )


def moments(probe: Probe, sums: Floats, images: int, rounding: float) -> Moments:
    """The means for the channels that the probe compares.

    Args:
        probe: The probe.
        sums: float64 `[6, channels]`.
        images: Their number.
        rounding: The part of the stream that counts as signal, see
            `export.collapse.limits.Limits.rounding`.
    """
    kept = sums if probe.fixed is None else sums[:, probe.fixed]
    samples = images * probe.tokens
    expected, square, error, error_square, product, stream = kept / samples
    return Moments(expected, square, error, error_square, product, rounding**2 * stream, samples)


def _summarise(names: Sequence[str], ranges: Sequence[Floats]) -> dict[str, Range]:
    each = np.stack(ranges)
    largest, clipped = each[:, :, 0].max(axis=0), each[:, :, 1].mean(axis=0)
    rows = zip(names, largest, clipped, strict=True)
    return {n.partition("@")[0]: Range(float(a), float(b)) for n, a, b in rows}


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
        reads: The input range of the quantiser before its last Linear, if there is one.
        limits: The precision's.
        plain: The moments of the plain lowering of the same model, where they are known.
    """
    allowed, exact = _allowed(probe, reads, limits), limits.exact
    if plain is not None:
        allowed, exact = (
            allowed.widened(_measures(plain)),
            widen_limits(exact, plain.relative_error()),
        )
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
    """The measures that the limits apply to."""
    return SegmentLimits(
        error=moments.relative_error(),
        channel=float(moments.channel_errors().max()),
        gain=abs(moments.gain() - 1),
        channel_gain=float(moments.channel_gain_errors().max()),
        shift=moments.shift(),
    )


def _inexact(probe: Probe, moments: Moments, allowed: SegmentLimits) -> str | None:
    """The first measure over its limit, in words; the most telling measures come first."""
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
