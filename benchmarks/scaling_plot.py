"""Draws the measurements of `benchmarks.scaling`.

python -m benchmarks.scaling_plot      # again, from the JSON
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PLOT = Path(__file__).parents[1] / "docs" / "scaling.png"
_COLOURS = {
    "fp32": "#4a5058", "fp16": "#0072b2", "bf16": "#56b4e9", "int8": "#d55e00",
    "fp8": "#cc79a7", "int4": "#009e73", "mixed": "#e69f00",
}  # fmt: skip
_MARKS = {"onnxruntime": "o", "openvino": "s"}

Row = dict[str, Any]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws three panels for each backend: cores, batch sizes, and latency against throughput."""
    backends = list(dict.fromkeys(row["backend"] for row in result["rows"]))
    cores = max(row["threads"] for row in result["rows"])
    figure = Figure(figsize=(13, 4.2 * len(backends)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(backends), 3, squeeze=False)
    for panels, backend in zip(grid, backends, strict=True):
        rows = [row for row in result["rows"] if row["backend"] == backend]
        _draw_cores(panels[0], rows)
        _draw_batches(panels[1], rows, cores)
        _draw_trade(panels[2], rows, cores)
        panels[0].set_title(f"{backend}: one image at a time", loc="left")
        panels[1].set_title(f"{backend}: batches on all cores", loc="left")
        panels[2].set_title(f"{backend}: what throughput costs", loc="left")
    figure.suptitle(f"{result['model']} on {result['machine']['cpu']}", fontweight="bold")
    figure.savefig(path, dpi=110)


def _lines(
    panel: Axes,
    rows: Iterable[Row],
    x: Callable[[Row], float],
    y: Callable[[Row], float],
    style: str,
    name: str,
) -> None:
    """Draws a line for each precision."""
    rows = list(rows)
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        own.sort(key=lambda row: (row["processes"], row["threads"], row["batch"]))
        panel.plot(
            list(map(x, own)),
            list(map(y, own)),
            style,
            color=_COLOURS.get(precision, "#7a6a58"),
            marker=_MARKS[own[0]["backend"]],
            markersize=5,
            label=f"{precision}, {name}",
        )


def _finish(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, handlelength=3.5)


def _rate(row: Row) -> float:
    return float(row["images_per_s"])


def _draw_cores(panel: Axes, rows: list[Row]) -> None:
    singles = [row for row in rows if row["batch"] == 1]
    threads = [row for row in singles if row["processes"] == 1]
    processes = [row for row in singles if row["threads"] == 1]
    _lines(panel, threads, lambda r: r["threads"], _rate, "-", "threads of one process")
    _lines(panel, processes, lambda r: r["processes"], _rate, "--", "processes of one thread")
    panel.set_xticks(sorted({row["threads"] for row in threads}))
    _finish(panel, "cores", "images per second")


def _draw_batches(panel: Axes, rows: list[Row], cores: int) -> None:
    whole = [row for row in rows if row["processes"] == 1 and row["threads"] == cores]
    split = [row for row in rows if row["processes"] == cores]
    _lines(panel, whole, lambda r: r["batch"], _rate, "-", "one process")
    if cores > 1:
        _lines(panel, split, lambda r: r["batch"], _rate, "--", f"{cores} processes")
    panel.set_xscale("log", base=2)
    sizes = sorted({row["batch"] for row in rows})
    panel.set_xticks(sizes, list(map(str, sizes)))
    _finish(panel, "batch size of a call", "images per second")


def _draw_trade(panel: Axes, rows: list[Row], cores: int) -> None:
    whole = [row for row in rows if row["processes"] == 1 and row["threads"] == cores]
    split = [row for row in rows if row["processes"] == cores]
    _lines(panel, whole, lambda r: r["p90_ms"], _rate, "-", "one process")
    if cores > 1:
        _lines(panel, split, lambda r: r["p90_ms"], _rate, "--", f"{cores} processes")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_formatter(NullFormatter())
    _finish(panel, "p90 of a call in ms", "images per second")


if __name__ == "__main__":
    draw(json.loads(RESULTS.read_text()), PLOT)
