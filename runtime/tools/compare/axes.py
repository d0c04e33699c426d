"""Axes: from values to places, with ticks at round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from . import svg

_STEPS = (1.0, 2.0, 5.0, 10.0)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WIDE = 3.0
"""Values that differ by more than this factor are shown on a logarithmic axis."""
_MANY = 1e4
_TICK_SPACE = 46.0
"""Room that a tick's label needs along a horizontal axis."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` at places from `start` to `end`, which may run backwards."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """The place of a value; those outside are put on the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = log10(value / self.low) / log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def label(self, tick: float) -> str:
        """A tick's text; all of an axis over many decades are powers of ten."""
        many = self.logarithmic and self.high / self.low > _MANY
        return _label(tick, *((10.0, 10.0) if many else (1e-3, 1e5)))

    def ticks(self) -> list[float]:
        """Round values, far enough apart to be labelled."""
        most = max(2, int(abs(self.end - self.start) / _TICK_SPACE))
        if not self.logarithmic:
            return _linear_ticks(self.low, self.high, most)
        for digits in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = _decade_ticks(self.low, self.high, digits)
            if len(found) <= most:
                return found
        return found[:: ceil(len(found) / most)]


def spanning(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> Axis:
    """An axis around positive values, logarithmic where they differ much."""
    low, high = min(values), max(values)
    if high / low > _WIDE:
        margin = max((high / low) ** pad, 1.05)
        return Axis(low / margin, high * margin, start, end, logarithmic=True)
    margin = max((high - low) * pad * 2, 0.02 * high)
    return Axis(max(low - margin, 0.0), high + margin, start, end, logarithmic=False)


def from_zero(values: Sequence[float], start: float, end: float) -> Axis:
    """A linear axis from 0, for what is compared by its length."""
    return Axis(0.0, 1.04 * max(*values, 1e-12), start, end, logarithmic=False)


def decades(values: Sequence[float], start: float, end: float) -> Axis:
    """A logarithmic axis over whole decades."""
    low, high = 10.0 ** floor(log10(min(values))), 10.0 ** ceil(log10(max(values)))
    return Axis(low, high if high > low else 10 * low, start, end, logarithmic=True)


def _label(value: float, least: float, most: float) -> str:
    """A value: plain between `least` and `most`, else with a power of ten."""
    if value != 0 and not least <= abs(value) < most:
        exponent = floor(log10(abs(value)) + 1e-9)
        mantissa = value / 10.0**exponent
        power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
        return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.2g}·{power}"
    return f"{value:.10g}" if value < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def draw_bottom(axis: Axis, top: float, bottom: float, name: str) -> str:
    """Grid lines, tick labels and the axis's name below."""
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(svg.line(x, top, x, bottom, "grid"))
        parts.append(
            svg.text(axis.label(tick), x, bottom + 16, class_="tick", text_anchor="middle")
        )
    middle = (axis.start + axis.end) / 2
    parts.append(svg.text(name, middle, bottom + 35, class_="name", text_anchor="middle"))
    return "".join(parts)


def draw_left(axis: Axis, left: float, right: float, name: str) -> str:
    """Grid lines and tick labels at the left; the axis's name above, where it reads level."""
    parts = []
    for tick in axis.ticks():
        y = axis.at(tick)
        parts.append(svg.line(left, y, right, y, "grid"))
        parts.append(svg.text(axis.label(tick), left - 6, y + 4, class_="tick", text_anchor="end"))
    parts.append(svg.text(name, 0, min(axis.start, axis.end) - 10, class_="name"))
    return "".join(parts)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    scale = 10.0 ** floor(log10(rough))
    step = next(s * scale for s in _STEPS if s * scale >= 0.999 * rough)
    first = ceil(low / step - 1e-9)
    return [n * step for n in range(first, floor(high / step + 1e-9) + 1)]


def _decade_ticks(low: float, high: float, digits: Sequence[float]) -> list[float]:
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    found = [digit * 10.0**e for e in exponents for digit in digits]
    return [tick for tick in found if 0.999 * low <= tick <= 1.001 * high]
