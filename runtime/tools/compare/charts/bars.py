"""Speed-up and size, compared by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...display import mebibytes
from .. import axes, looks, svg
from ..comparison import ComparedRow

_LEFT, _RIGHT, _TOP = 4.0, svg.WIDTH - 86.0, 6.0
_ROW, _BAR = 36.0, 13.0


@dataclass(frozen=True)
class _Bar:
    name: str
    value: float
    said: str
    colour: str
    interval: tuple[float, float] | None = None


def draw_speedup(rows: Sequence[ComparedRow]) -> str | None:
    """How many times as fast as fp32 on the same backend; None without fp32."""
    bars = [
        _Bar(
            looks.name(row),
            row.speedup.value,
            f"{row.speedup.value:.2f}{svg.TIMES}",
            looks.colour(row.precision),
            (row.speedup.low, row.speedup.high),
        )
        for row in looks.single(rows)
        if row.speedup is not None
    ]
    bars.sort(key=lambda bar: -bar.value)
    return _draw("Speed-up over fp32 on the same backend", bars, mark=1.0)


def draw_size(rows: Sequence[ComparedRow]) -> str | None:
    """Bytes of what is opened; backends that open the same file share a bar."""
    backends: dict[tuple[str, int], list[str]] = {}
    for row in looks.single(rows):
        if row.bytes is not None:
            backends.setdefault((row.precision, row.bytes), []).append(row.backend)
    bars = [
        _Bar(f"{precision} · {', '.join(names)}", size, mebibytes(size), looks.colour(precision))
        for (precision, size), names in sorted(backends.items(), key=lambda item: item[0][1])
    ]
    return _draw("Size of the graph or engine", bars)


def _draw(title: str, bars: Sequence[_Bar], mark: float | None = None) -> str | None:
    if not bars:
        return None
    ends = [bar.interval[1] if bar.interval else bar.value for bar in bars]
    x = axes.from_zero(ends, _LEFT, _RIGHT)
    height = _TOP + _ROW * len(bars) + 4
    parts = [_bar(bar, x, _TOP + _ROW * i) for i, bar in enumerate(bars)]
    if mark is not None:
        parts.append(svg.line(x.at(mark), _TOP, x.at(mark), height, "mark-line"))
    description = "; ".join(f"{bar.name}: {bar.said}" for bar in bars)
    return svg.chart(height, title, description, *parts)


def _bar(bar: _Bar, x: axes.Axis, top: float) -> str:
    start, end, middle = x.at(0), x.at(bar.value), top + 19 + _BAR / 2
    parts = [
        svg.text(bar.name, _LEFT, top + 13, class_="label"),
        svg.rectangle(start, top + 19, end - start, _BAR, f"bar {bar.colour}"),
    ]
    reach = end
    if bar.interval is not None:
        low, reach = map(x.at, bar.interval)
        parts.append(svg.line(low, middle, reach, middle, "interval"))
    parts.append(svg.text(bar.said, max(reach, end) + 7, middle + 5, class_="label strong"))
    return svg.tooltip(f"{bar.name}: {bar.said}", *parts)
