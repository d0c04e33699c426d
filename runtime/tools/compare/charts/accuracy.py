"""Accuracy against latency, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from ...display import figures
from .. import axes, labels, looks, svg
from ..comparison import ComparedRow, Recommendation

_LEFT, _TOP, _BOTTOM, _RIGHT = 46.0, 30.0, 270.0, svg.WIDTH - 10.0
_HEIGHT = 338.0
_LEAST_ERROR = 1e-8
_TITLE = "Accuracy against latency"


def pareto(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """Those that no other beats in latency and error both; the fastest first."""
    front: list[ComparedRow] = []
    for row in sorted(rows, key=lambda r: (r.p50_ms or 0.0, _error(r))):
        if not front or _error(row) < _error(front[-1]):
            front.append(row)
    return front


def draw_accuracy(rows: Sequence[ComparedRow], chosen: Recommendation) -> str | None:
    """None where no error or no latency is known."""
    shown = [row for row in looks.single(rows) if row.rms_error is not None]
    if not shown:
        return None
    intervals = [end for row in shown for end in row.p50_interval or (row.p50_ms or 0.0,)]
    x = axes.spanning(intervals, _LEFT, _RIGHT)
    y = axes.decades([_error(row) for row in shown], _BOTTOM, _TOP)
    points = [(x.at(row.p50_ms or 0.0), y.at(_error(row))) for row in shown]
    frame = labels.Box(_LEFT, _TOP - 6, svg.WIDTH, _BOTTOM)
    whiskers = [_whisker(row, x, y) for row in shown]
    places = labels.place_labels(points, [row.precision for row in shown], frame, whiskers)
    front = pareto(shown)
    parts = [
        axes.draw_left(y, _LEFT, _RIGHT, "error, lower is better"),
        axes.draw_bottom(x, _TOP, _BOTTOM, "median latency in ms, end to end"),
        _front(front, x, y),
        *(
            _point(row, place, x, y, _is_chosen(row, chosen))
            for row, place in zip(shown, places, strict=True)
        ),
        looks.legend((row.backend for row in shown), _HEIGHT - 6),
    ]
    description = (
        f"{len(shown)} engines. Not beaten in both: "
        + ", ".join(f"{looks.name(row)} with {_said(row)}" for row in front)
        + "."
    )
    return svg.chart(_HEIGHT, _TITLE, description, *parts)


def _error(row: ComparedRow) -> float:
    return max(row.rms_error or 0.0, _LEAST_ERROR)


def _said(row: ComparedRow) -> str:
    return f"{figures(row.p50_ms)} ms and an error of {row.rms_error:.2g}"


def _whisker(row: ComparedRow, x: axes.Axis, y: axes.Axis) -> labels.Box:
    low, high = row.p50_interval or (row.p50_ms or 0.0, row.p50_ms or 0.0)
    there = y.at(_error(row))
    return labels.Box(x.at(low) - 3, there - 3, x.at(high) + 3, there + 3)


def _is_chosen(row: ComparedRow, chosen: Recommendation) -> bool:
    return (row.precision, row.backend) == (chosen.precision, chosen.backend)


def _front(front: Sequence[ComparedRow], x: axes.Axis, y: axes.Axis) -> str:
    """A staircase: right of it and above it everything is beaten."""
    steps: list[tuple[float, float]] = [(x.at(front[0].p50_ms or 0.0), _TOP)]
    for row in front:
        here = x.at(row.p50_ms or 0.0)
        steps += [(here, steps[-1][1]), (here, y.at(_error(row)))]
    steps.append((_RIGHT, steps[-1][1]))
    area = [*steps, (_RIGHT, _TOP)]
    return svg.path(area, "beaten", "Z") + svg.path(steps, "front")


def _point(row: ComparedRow, place: labels.Box, x: axes.Axis, y: axes.Axis, chosen: bool) -> str:
    here, there = x.at(row.p50_ms or 0.0), y.at(_error(row))
    colour, shape = looks.colour(row.precision), looks.shape(row.backend)
    parts = []
    if row.p50_interval is not None:
        low, high = row.p50_interval
        parts.append(svg.line(x.at(low), there, x.at(high), there, f"whisker {colour}"))
    if chosen:
        parts.append(svg.marker("circle", here, there, 10, "ring"))
    parts.append(svg.marker(shape, here, there, 5.5, f"mark {colour}"))
    parts.append(_leader(here, there, place))
    parts.append(
        svg.text(
            row.precision,
            place.left + 2,
            place.bottom - 3,
            class_="label strong" if chosen else "label",
        )
    )
    return svg.tooltip(f"{looks.name(row)}: {_said(row)}", *parts)


def _leader(x: float, y: float, place: labels.Box) -> str:
    """A line to a label that had to go far."""
    nearest = (min(max(x, place.left), place.right), min(max(y, place.top), place.bottom))
    far = (nearest[0] - x) ** 2 + (nearest[1] - y) ** 2 > 16**2
    return svg.line(x, y, *nearest, "leader") if far else ""
