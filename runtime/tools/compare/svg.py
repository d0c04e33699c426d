"""The little of SVG that charts need, as text. Everything that comes from a bundle is escaped here.

Source: SVG 2 (viewBox, text-anchor, title), WAI-ARIA Graphics Module (role "img").
"""

from __future__ import annotations

from html import escape
from math import cos, pi, sin

WIDTH = 400
"""Width of every chart in its own units: near a phone's, so that its text is readable there."""
FONT = 13
_CHARACTER = 0.56
"""Mean width of a character, in font sizes."""

TIMES = "\u00d7"
"""The multiplication sign, written so that nobody takes it for the letter x."""

Attribute = str | float | int


def element(name: str, *children: str, **attributes: Attribute) -> str:
    """An element. `children` are markup already; `class_="x"` and `stroke_width=1` give the
    attributes class and stroke-width.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown(value))}"'
        for key, value in attributes.items()
    )
    body = "".join(children)
    return f"<{name}{pairs}>{body}</{name}>" if body else f"<{name}{pairs}/>"


def _shown(value: Attribute) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def text(content: str, x: float, y: float, **attributes: Attribute) -> str:
    """Text whose base line begins at (x, y), or ends or is centred there with `text_anchor`."""
    return element("text", escape(content), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rectangle(x: float, y: float, width: float, height: float, class_: str) -> str:
    return element("rect", x=x, y=y, width=max(width, 0), height=height, rx=2, class_=class_)


def path(points: list[tuple[float, float]], class_: str, end: str = "") -> str:
    """A line through points; `end` "Z" closes it."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("path", d=f"M{steps}{end}", class_=class_)


def tooltip(content: str, *children: str) -> str:
    """A group that a pointer or a screen reader can ask what it is."""
    return element("g", element("title", escape(content)), *children)


def chart(height: float, title: str, description: str, *children: str) -> str:
    """A whole picture. A screen reader reads title and description in its place."""
    return element(
        "svg",
        element("title", escape(title)),
        element("desc", escape(description)),
        *children,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def text_width(content: str, size: float = FONT) -> float:
    """About how wide a text is: enough to keep labels apart."""
    return _CHARACTER * size * len(content)


SHAPES = ("circle", "square", "triangle", "diamond", "pentagon")


def marker(shape: str, x: float, y: float, radius: float, class_: str) -> str:
    """A point's mark; all shapes look about as large."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=radius, class_=class_)
    corners, turn, scale = {
        "square": (4, pi / 4, 1.25),
        "triangle": (3, 0.0, 1.35),
        "diamond": (4, 0.0, 1.3),
        "pentagon": (5, 0.0, 1.15),
    }[shape]
    angles = [turn + 2 * pi * k / corners for k in range(corners)]
    points = [(x + scale * radius * sin(a), y - scale * radius * cos(a)) for a in angles]
    return path(points, class_, "Z")
