"""Look of the charts: a colour for each precision, a mark for each backend; light or dark, wide or
narrow.

Colours have the hues of Okabe and Ito's palette, at brightnesses that were searched so that readers
with deuteranopia, protanopia or tritanopia tell any two apart, on white and in the dark.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import matplotlib.style
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compare.comparison import ComparedRow

KNOWN = ("fp32", "fp16", "int8", "fp8", "int4", "mixed", "bf16")
"""Precisions whose colour is the same in every page; others take the colours that a page leaves."""
_MARKS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3)), (0, (3, 4)))
_MOST_LETTERS = 24
_LETTER = 6.6
"""Points that a letter takes on average, rounded up."""


INK, SOFT, GRID, GOOD = "#1a1d21", "#5c6570", "#dfe3e8", "#00714f"
"""Colours of text, of lesser text, of lines, and of the recommendation."""
COLOURS = (
    "#2d2f2f", "#35558b", "#cf8217", "#b682a9", "#238556", "#764d00", "#1599e8", "#402700"
)  # fmt: skip
"""Colours of `KNOWN`, and the one of all others when these are spent."""
SHADES = matplotlib.colormaps["YlOrBr"].resampled(7)
_SHADES = [to_hex(SHADES(i)) for i in range(SHADES.N)]
DARK = dict(
    zip(
        (INK, SOFT, GRID, GOOD, *COLOURS, *_SHADES),
        (
            "#e8eaed", "#a2abb6", "#333a42", "#5fd3a5", "#eeeef4", "#348bd4", "#e9560c", "#bd7f99",
            "#1ac56e", "#fad92d", "#96ccfb", "#b8e5b7", *reversed(_SHADES),
        ),
        strict=True,
    )
)  # fmt: skip
"""The colour that takes the place of each in the dark."""
NARROW, WIDE = 360.0, 600.0
"""Widths in points, which are pixels where a chart is shown at its own size."""


@dataclass(frozen=True)
class Key:
    """Places of a page's precisions among the colours and of its backends among the marks."""

    precisions: dict[str, int]
    backends: dict[str, int]

    @classmethod
    def of(cls, rows: Iterable[ComparedRow]) -> Key:
        """Gives each name one place, the same in all charts of a page."""
        rows = tuple(rows)
        names = dict.fromkeys(row.precision for row in rows)
        free = [i for i, known in enumerate(KNOWN) if known not in names]
        precisions = {
            name: KNOWN.index(name) if name in KNOWN else free.pop(0) if free else len(KNOWN)
            for name in names
        }
        backends = dict.fromkeys(row.backend for row in rows)
        return cls(precisions, {name: i % len(_MARKS) for i, name in enumerate(backends)})


@dataclass(frozen=True)
class Look:
    """One rendering of a chart."""

    width: float
    key: Key

    @property
    def narrow(self) -> bool:
        return self.width == NARROW

    def colour(self, precision: str) -> str:
        return COLOURS[self.key.precisions[precision]]

    def mark(self, backend: str) -> str:
        return _MARKS[self.key.backends[backend]]

    def dash(self, backend: str) -> Any:
        return _DASHES[self.key.backends[backend]]

    def figure(self, height: float) -> Figure:
        return Figure(figsize=(self.width / 72, height / 72), layout="constrained")

    def engine(self, row: ComparedRow) -> str:
        """The name of a row's engine, in two lines where the chart is narrow."""
        return ("\n" if self.narrow else " · ").join(map(shorten, (row.precision, row.backend)))

    def fold(self, text: str) -> str:
        """A title, in three lines at most."""
        letters = int(self.width / _LETTER) - 4
        return "\n".join(wrap(text, letters, max_lines=3, placeholder=" …"))

    def legend(
        self, figure: Figure, rows: Sequence[ComparedRow], dash: Callable[[str], Any], *more: Line2D
    ) -> None:
        """Adds the colours and marks of these rows below the chart; `dash` is of a backend."""
        handles = [
            Line2D(
                [], [], lw=7, solid_capstyle="butt", color=self.colour(name), label=shorten(name)
            )
            for name in dict.fromkeys(row.precision for row in rows)
        ] + [
            Line2D(
                [], [], marker=self.mark(name), ms=7, color=SOFT, label=shorten(name),
                ls=dash(name),
            )
            for name in dict.fromkeys(row.backend for row in rows)
        ]  # fmt: skip
        handles += more
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, int((self.width - 20) / (_LETTER * longest + 38)))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def shorten(text: str) -> str:
    """A name as it fits into a chart; the tables have it in full."""
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "vit-edge", "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.labelsize": 11,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": GRID,
    "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.color": GRID, "xtick.labelcolor": SOFT,
    "ytick.color": GRID, "ytick.labelcolor": INK,
    "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.handletextpad": 0.6, "legend.columnspacing": 1.4,
    "legend.handlelength": 2,
}  # fmt: skip
"""matplotlib's; text stays text, measured in a font that is wider than most."""


@dataclass(frozen=True)
class Chart:
    """A chart with its heading, a caption and a text that says the same as the picture."""

    heading: str
    caption: str
    alternative: str
    draw: Callable[[Look], Figure]

    def render(self, width: float, key: Key) -> tuple[str, str]:
        """Returns the chart, light and dark, as addresses that hold an SVG themselves."""
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", SETTINGS]):
            figure = self.draw(Look(width, key))
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        light = buffer.getvalue().decode()
        dark = re.sub("#[0-9a-f]{6}", lambda match: DARK.get(match[0], match[0]), light)
        return _address(light), _address(dark)


def _address(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
