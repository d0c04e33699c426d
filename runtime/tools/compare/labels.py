"""Places labels beside points so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .svg import text_width

_HEIGHT = 14.0


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def around(x: float, y: float, radius: float) -> Box:
    return Box(x - radius, y - radius, x + radius, y + radius)


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    obstacles: Sequence[Box] = (),
) -> list[Box]:
    """A box for each text near its point, inside `frame`: of several places the one that covers the
    least of points, `obstacles` and earlier labels, near ones first.
    """
    taken = [*(around(x, y, 7) for x, y in points), *obstacles]
    placed = []
    for (x, y), text in zip(points, texts, strict=True):
        boxes = list(_places(x, y, text_width(text) + 4))
        best = min(boxes, key=lambda box: _cost(box, taken, frame))  # the first of equals
        taken.append(best)
        placed.append(best)
    return placed


def _places(x: float, y: float, width: float) -> list[Box]:
    found = []
    for gap in (9.0, 20.0, 34.0):
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            left = x + gap if dx > 0 else x - gap - width if dx < 0 else x - width / 2
            middle = y + dy * (gap + (3 if dx == 0 else -2))
            found.append(Box(left, middle - _HEIGHT / 2, left + width, middle + _HEIGHT / 2))
    return found


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    inside = box.overlap(frame)
    outside = (box.right - box.left) * (box.bottom - box.top) - inside
    return 4 * outside + sum(box.overlap(other) for other in taken)
