"""Scales of the charts' axes: logarithmic where values differ much, with ticks at round numbers."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, log10
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WIDE = 3.0
"""Values that differ by more than this factor are shown on a logarithmic axis."""
_TICK_SPACE = 46.0
"""Points that a tick's label needs."""


def span(axes: Axes, which: Literal["x", "y"], values: Iterable[float], length: float) -> None:
    """Sets the scale, limits and ticks of an axis around values; from 0 where one of them is 0.

    Args:
        axes: Whose axis it is.
        which: The axis.
        values: What has to be visible.
        length: Of the axis in points, roughly.
    """
    values = tuple(values)
    low, high = min(values), max(values)
    axis = axes.xaxis if which == "x" else axes.yaxis
    most = max(2, int(length / _TICK_SPACE))
    if low > 0 and high > _WIDE * low:
        pad = max((high / low) ** 0.06, 1.1)
        low, high = low / pad, high * pad
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(FixedLocator(_round_numbers(low, high, most)))
    else:
        pad = max(0.12 * (high - low), 0.02 * high)
        low, high = max(low - pad, 0.0) if low > 0 else 0.0, high + pad
        axis.set_major_locator(MaxNLocator(min(most, 6)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _label(value)))
    axes.set(**{f"{which}lim": (low, high)})


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Ticks of a logarithmic axis: two at least and `most` at most, where there are such."""
    powers = [10.0**n for n in range(floor(log10(low)), ceil(log10(high)) + 1)]
    choices = [
        [tick for power in powers for digit in digits if low <= (tick := digit * power) <= high]
        for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
    ]
    best = min(choices, key=lambda ticks: (not 2 <= len(ticks) <= most, abs(len(ticks) - most)))
    return best[:: max(1, ceil(len(best) / (most + 1)))]


def _label(value: float) -> str:
    """A tick's value: plain, or with a power of ten where it is very small or large."""
    if value <= 0 or 1e-3 <= value < 1e5:
        return f"{value:,.10g}".replace(",", "\u2009")
    exponent = floor(log10(value) + 1e-9)
    mantissa, power = value / 10.0**exponent, f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.2g}·{power}"
