"""The distribution of every engine's latencies, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...display import figures
from .. import axes, looks, svg
from ..comparison import QUANTILES, ComparedRow, Distribution

_LEFT, _RIGHT, _TOP = 8.0, svg.WIDTH - 8.0, 8.0
_ROW, _CURVE = 56.0, 30.0
_POINTS = 160
_TITLE = "Latency distributions"


def draw_latency(rows: Sequence[ComparedRow], distributions: Sequence[Distribution]) -> str | None:
    """None where nothing was measured."""
    known = {(d.precision, d.backend, d.batch): d for d in distributions}
    pairs = [
        (row, known[row.precision, row.backend, row.batch])
        for row in looks.single(rows)
        if row.batch is not None and (row.precision, row.backend, row.batch) in known
    ]
    if not pairs:
        return None
    ends = [d.quantiles_ms[0] for _, d in pairs] + [
        max(d.quantiles_ms[-2], r.p99_ms or 0) for r, d in pairs
    ]
    x = axes.spanning(ends, _LEFT, _RIGHT, pad=0.03)
    bottom = _TOP + _ROW * len(pairs)
    parts = [axes.draw_bottom(x, _TOP, bottom, "latency in ms, end to end")]
    parts += [_ridge(row, d, x, _TOP + _ROW * (i + 1)) for i, (row, d) in enumerate(pairs)]
    description = "; ".join(f"{looks.name(row)}: {_said(row)}" for row, _ in pairs)
    return svg.chart(bottom + 42, _TITLE, description, *parts)


def _said(row: ComparedRow) -> str:
    p50, p90, p99 = map(figures, (row.p50_ms, row.p90_ms, row.p99_ms))
    return f"p50 {p50}, p90 {p90}, p99 {p99} ms"


def _ridge(row: ComparedRow, d: Distribution, x: axes.Axis, base: float) -> str:
    colour = looks.colour(row.precision)
    numbers = " / ".join(map(figures, (row.p50_ms, row.p90_ms, row.p99_ms))) + " ms"
    parts = [
        svg.path(_curve(d, x, base), f"ridge {colour}", "Z"),
        svg.line(_LEFT, base, _RIGHT, base, "base"),
    ]
    for value, height in ((row.p50_ms, _CURVE), (row.p90_ms, 14.0), (row.p99_ms, 8.0)):
        place = x.at(value or 0.0)
        parts.append(svg.line(place, base, place, base - height, f"whisker {colour}"))
    parts.append(svg.text(looks.name(row), _LEFT, base - _ROW + 17, class_="label strong"))
    parts.append(svg.text(numbers, _RIGHT, base - _ROW + 17, class_="tick", text_anchor="end"))
    return svg.tooltip(f"{looks.name(row)}: {_said(row)}", *parts)


def _curve(d: Distribution, x: axes.Axis, base: float) -> list[tuple[float, float]]:
    """A kernel density of the places of the quantiles, which share the calls evenly; all curves are
    as high as each other.
    """
    places = np.array([x.at(value) for value in d.quantiles_ms])
    q1, q3 = np.interp((25, 75), QUANTILES, places)
    width = max(1.2, 0.9 * min(places.std(), (q3 - q1) / 1.34 or np.inf) * len(places) ** -0.2)
    grid = np.linspace(places.min() - 3 * width, places.max() + 3 * width, _POINTS)
    density = np.exp(-0.5 * ((grid[:, None] - places) / width) ** 2).sum(axis=1)
    heights = base - _CURVE * density / density.max()
    inside = np.clip(grid, _LEFT, _RIGHT)
    outline = [(float(a), float(b)) for a, b in zip(inside, heights, strict=True)]
    return [(outline[0][0], base), *outline, (outline[-1][0], base)]
