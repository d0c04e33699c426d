"""Look of the charts: a colour for each precision, a mark for each backend; light or dark, wide or
narrow.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, made darker on white
and lighter on black.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

import matplotlib.style
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


@dataclass(frozen=True)
class Theme:
    """Colours: of text, lines and the recommendation, of precisions, and a map for heat maps."""

    ink: str
    soft: str
    grid: str
    good: str
    colours: tuple[str, ...]
    shades: str


LIGHT = Theme(
    "#1a1d21", "#5c6570", "#dfe3e8", "#00714f",
    ("#4a5058", "#0072b2", "#d55e00", "#b8558f", "#00865f", "#b07d00", "#3c9fd6", "#7a6a58"),
    "YlOrBr",
)  # fmt: skip
DARK = Theme(
    "#e8eaed", "#a2abb6", "#333a42", "#5fd3a5",
    ("#b6bec8", "#4aa8e0", "#ff8c42", "#e59ac6", "#3cc79a", "#eab83a", "#8fd0f7", "#c9b8a2"),
    "YlOrBr_r",
)  # fmt: skip
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

    theme: Theme
    width: float
    key: Key

    @property
    def narrow(self) -> bool:
        return self.width == NARROW

    def colour(self, precision: str) -> str:
        return self.theme.colours[self.key.precisions[precision]]

    def mark(self, backend: str) -> str:
        return _MARKS[self.key.backends[backend]]

    def dash(self, backend: str) -> object:
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
        self, figure: Figure, rows: Sequence[ComparedRow], *more: Line2D, lines: bool = False
    ) -> None:
        """Adds the colours and marks of these rows below the chart."""
        soft = self.theme.soft
        handles = [
            Line2D(
                [], [], lw=7, solid_capstyle="butt", color=self.colour(name), label=shorten(name)
            )
            for name in dict.fromkeys(row.precision for row in rows)
        ] + [
            Line2D(
                [], [], marker=self.mark(name), ms=7, color=soft, label=shorten(name),
                ls=self.dash(name) if lines else "",
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


@dataclass(frozen=True)
class Chart:
    """A chart with its heading, a caption and a text that says the same as the picture."""

    heading: str
    caption: str
    alternative: str
    draw: Callable[[Look], Figure]

    def render(self, theme: Theme, width: float, key: Key) -> str:
        """Returns the chart as the address of an SVG that is in the address itself."""
        look, buffer = Look(theme, width, key), io.BytesIO()
        with matplotlib.style.context(["default", _settings(theme)]):
            self.draw(look).savefig(buffer, format="svg", metadata={"Date": None})
        return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _settings(theme: Theme) -> dict[str, object]:
    """matplotlib's settings; text stays text, in a font that is at most as wide as the measured
    one.
    """
    return {
        "svg.fonttype": "none", "svg.hashsalt": "vit-edge", "text.parse_math": False,
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.labelsize": 11,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "text.color": theme.ink, "axes.labelcolor": theme.soft, "axes.edgecolor": theme.grid,
        "xtick.major.size": 0, "ytick.major.size": 0,
        "xtick.color": theme.grid, "xtick.labelcolor": theme.soft,
        "ytick.color": theme.grid, "ytick.labelcolor": theme.ink,
        "axes.grid": True, "grid.color": theme.grid, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "legend.handletextpad": 0.6, "legend.columnspacing": 1.4,
        "legend.handlelength": 2,
    }  # fmt: skip
