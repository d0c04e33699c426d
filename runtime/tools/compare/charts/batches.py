"""Throughput against batch size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from .. import axes, looks, svg
from ..comparison import ComparedRow

_LEFT, _TOP, _BOTTOM, _RIGHT = 52.0, 30.0, 250.0, svg.WIDTH - 54.0
_HEIGHT = 318.0
_LABEL = 14.0
_FAR = 30.0
_TITLE = "Throughput against batch size"


def draw_batches(rows: Sequence[ComparedRow]) -> str | None:
    """None where only one batch size was measured."""
    lines: dict[tuple[str, str], list[ComparedRow]] = {}
    for row in rows:
        if row.batch is not None and row.images_per_s is not None:
            lines.setdefault((row.precision, row.backend), []).append(row)
    sizes = sorted({row.batch or 0 for line in lines.values() for row in line})
    if len(sizes) < 2:
        return None
    x = axes.Axis(sizes[0], sizes[-1], _LEFT + 8, _RIGHT, logarithmic=True)
    rates = [row.images_per_s or 0.0 for line in lines.values() for row in line]
    far_apart = max(rates) > _FAR * min(rates)  # a linear axis would press some to the ground
    y = (axes.spanning if far_apart else axes.from_zero)(rates, _BOTTOM, _TOP)
    parts = [axes.draw_left(y, _LEFT, _RIGHT, "images per second")]
    for size in sizes:
        parts.append(
            svg.text(str(size), x.at(size), _BOTTOM + 16, class_="tick", text_anchor="middle")
        )
    middle = (_LEFT + _RIGHT) / 2
    parts.append(svg.text("batch size", middle, _BOTTOM + 35, class_="name", text_anchor="middle"))
    ends = _spread({key: y.at(line[-1].images_per_s or 0.0) for key, line in lines.items()})
    parts += [_line(line, x, y, ends[key]) for key, line in lines.items()]
    parts.append(looks.legend((backend for _, backend in lines), _HEIGHT - 6))
    return svg.chart(_HEIGHT, _TITLE, _describe(lines.values()), *parts)


def _describe(lines: Iterable[Sequence[ComparedRow]]) -> str:
    return "; ".join(
        f"{looks.name(line[0])}: "
        + ", ".join(f"{row.images_per_s:.4g} at {row.batch}" for row in line)
        for line in lines
    )


def _spread(places: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Places of the labels at the lines' ends, pushed apart: downwards, then up from the axis."""
    keys = sorted(places, key=lambda key: places[key])
    spread, least, most = dict(places), -inf, _BOTTOM
    for key in keys:
        spread[key] = least = max(spread[key], least + _LABEL)
    for key in reversed(keys):
        spread[key] = min(spread[key], most)
        most = spread[key] - _LABEL
    return spread


def _line(line: Sequence[ComparedRow], x: axes.Axis, y: axes.Axis, label: float) -> str:
    colour, backend = looks.colour(line[0].precision), line[0].backend
    points = [(x.at(row.batch or 0), y.at(row.images_per_s or 0.0)) for row in line]
    parts = [svg.path(points, f"line {colour} {looks.dash(backend)}")]
    parts += [svg.marker(looks.shape(backend), *point, 4.5, f"mark {colour}") for point in points]
    last = points[-1]
    parts.append(svg.line(last[0] + 5, last[1], _RIGHT + 12, label, "leader"))
    parts.append(svg.text(line[0].precision, _RIGHT + 14, label + 4, class_="label"))
    said = ", ".join(f"{row.images_per_s:.4g} images/s at {row.batch}" for row in line)
    return svg.tooltip(f"{looks.name(line[0])}: {said}", *parts)
