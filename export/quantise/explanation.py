"""Effects of quantisation on each Linear, for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .grid import Floats


@dataclass(frozen=True)
class Channels:
    """Largest magnitudes of an activation's channels: that of all, and of the median one."""

    largest: float
    median: float


@dataclass(frozen=True)
class SiteExplanation:
    """A Linear's input, before and after.

    Attributes:
        site: The activation's name.
        alpha: SmoothQuant's exponent; None where nothing was moved.
        before, after: Its channels without and with smoothing.
        amax: The magnitude that its quantiser represents at most; None if it has none.
        sqnr_db: For each Linear that reads it, the signal-to-quantisation-noise ratio of the
            outputs on calibration samples, in decibels.
    """

    site: str
    alpha: float | None
    before: Channels
    after: Channels
    amax: float | None
    sqnr_db: dict[str, float]


def describe_channels(channel_amax: Floats) -> Channels:
    """Summarises the largest magnitude of each channel, float32 `[K]`."""
    return Channels(float(channel_amax.max()), float(np.median(channel_amax)))


def sqnr_db(expected: Floats, lost: Floats) -> float:
    """The power of `expected` over that of `lost`, its difference to what is computed; at most 150
    dB, where fp32 itself ends.
    """
    signal, noise = (float(np.mean(x.astype(np.float64) ** 2)) for x in (expected, lost))
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, signal * 1e-15, 1e-30)))
