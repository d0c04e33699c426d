"""Charts of a page: each says what to draw, and in words what the drawing shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from ..check import OK
from ..compare.comparison import QUANTILES, ComparedRow, Distribution, LayerSensitivity
from ..display import figures
from .axis import span
from .devices import DeviceReport, engine_name, error, latency, pareto
from .look import GOOD, INK, SHADES, SOFT, Chart, Look

_FAR = 30.0
"""Rates that differ by more than this factor have a logarithmic axis."""
_BANDS = ((0.5, 99.5, 0.25), (10.0, 90.0, 0.5), (25.0, 75.0, 1.0))
"""Summary and opacity of the bands of a distribution."""
_LAYER = re.compile(r"(?:.{0,60}\.)?(\d{1,6})\.(.{1,60})")
_MOST_LAYERS = 2000
LATENCY, ERROR, RATE = "median latency in ms", "relative RMS error", "images per second"


def draw_pareto(devices: Sequence[DeviceReport]) -> Chart | None:
    """Error against latency, a panel for each device; None where no error is known."""
    shown = [(d, [r for r in d.engines if r.rms_error is not None]) for d in devices]
    shown = [(device, rows) for device, rows in shown if rows]
    everything = [row for _, rows in shown for row in rows]
    if not everything:
        return None

    def draw(look: Look) -> Figure:
        figure = look.figure(60 + (190 if len(shown) < 3 else 140) * len(shown) + 34)
        panels = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        ends = [end for row in everything for end in row.p50_interval or (latency(row),)]
        span(panels[0], "x", filter(lambda end: end > 0, [*ends, *map(latency, everything)]),
             look.width - 80)  # fmt: skip
        span(panels[0], "y", map(error, everything), 130)
        for axes, (device, rows) in zip(panels, shown, strict=True):
            if len(shown) > 1:
                axes.set_title(look.fold(device.name))
                _front(axes, pareto(everything), color=SOFT, ls=":")
            _front(axes, pareto(rows), color=SOFT, ls="--")
            for row in rows:
                _point(axes, row, look)
                if device.is_chosen(row):
                    axes.plot(latency(row), error(row), "o", ms=15, mfc="none", mec=GOOD, mew=2)
            axes.set_ylabel(ERROR if len(shown) < 3 else "error")
        panels[-1].set_xlabel(f"{LATENCY}, end to end")
        ring = Line2D([], [], ls="", marker="o", ms=12, mfc="none", mec=GOOD, mew=2,
                      label="recommended")  # fmt: skip
        look.legend(figure, everything, lambda backend: "", ring)
        return figure

    best = [
        f"{device.name}: " + ", ".join(f"{engine_name(r)} with {_said(r)}" for r in pareto(rows))
        for device, rows in shown
    ]
    return Chart(
        "Accuracy against latency",
        "Each mark is an engine: left is faster, down is nearer to the reference; hollow ones "
        "answer wrongly here. The error is the root mean square of the golden samples' outputs, "
        "relative to what tells images apart. No engine of a device beats those on its dashed line "
        "in both" + ("; dotted: of all devices." if len(shown) > 1 else "."),
        f"{len(everything)} engines. Not beaten in latency and error both: {'; '.join(best)}.",
        draw,
    )


def _said(row: ComparedRow) -> str:
    return f"{figures(row.p50_ms)} ms and an error of {row.rms_error:.2g}"


def _front(axes: Axes, front: Sequence[ComparedRow], **style: Any) -> None:
    """A staircase: right of it and above it everything is beaten."""
    if front:
        x, y = [latency(row) for row in front], [error(row) for row in front]
        right, top = axes.get_xlim()[1], axes.get_ylim()[1]
        axes.step([x[0], *x, right], [top, *y, y[-1]], where="post", lw=1.3, **style)


def _point(axes: Axes, row: ComparedRow, look: Look) -> None:
    x, y, colour = latency(row), error(row), look.colour(row.precision)
    axes.plot(row.p50_interval or (x, x), (y, y), color=colour, lw=2)
    face = colour if row.status == OK else "none"
    axes.plot(x, y, look.mark(row.backend), ms=8, mfc=face, mec=colour, mew=1.4)


def draw_engines(devices: Sequence[DeviceReport]) -> Chart | None:
    """Latency, throughput and error of every engine side by side; None where none was measured."""
    pairs = [(device, row) for device in devices for row in device.engines]
    if not pairs:
        return None
    quantities: list[tuple[str, Callable[[DeviceReport, ComparedRow], float | None]]] = [
        (LATENCY, lambda device, row: row.p50_ms),
        (RATE, lambda device, row: device.best_rate(row).images_per_s),
        (ERROR, lambda device, row: None if row.rms_error is None else error(row)),
    ]
    quantities = [(n, q) for n, q in quantities if any(q(*pair) is not None for pair in pairs)]

    def draw(look: Look) -> Figure:
        titles = {d.name: look.fold(d.name) for d, _ in pairs} if len(devices) > 1 else {}
        lines = len(pairs) + sum(1 + title.count("\n") for title in titles.values())
        stacked = len(quantities) if look.narrow else 1
        figure = look.figure(stacked * (19 * lines + 52) + 12)
        panels = figure.subplots(stacked, len(quantities) // stacked, squeeze=False).flat
        for axes, (name, quantity) in zip(panels, quantities, strict=True):
            values = [quantity(*pair) for pair in pairs]
            known = [v for v in values if v is not None]
            span(axes, "x", known, look.width - 130 if look.narrow else look.width / 4)
            _dots(axes, pairs, values, titles, look)
            axes.set_xlabel(name)
        return figure

    said = "; ".join(
        f"{engine_name(row)} on {device.name}: "
        + ", ".join(f"{name} {figures(q(device, row))}" for name, q in quantities)
        for device, row in pairs
    )
    return Chart(
        "Engines side by side",
        "Median latency of the smallest batch, images per second of the best batch size, and the "
        "error of the golden samples' outputs. Scales are logarithmic where values differ much.",
        said,
        draw,
    )


def _dots(
    axes: Axes,
    pairs: Sequence[tuple[DeviceReport, ComparedRow]],
    values: Sequence[float | None],
    titles: Mapping[str, str],
    look: Look,
) -> None:
    """A line for each engine, below the title of its device where it has one."""
    line, lines, labels = 0, [], []
    left = blended_transform_factory(axes.figure.transFigure, axes.transData)
    titles, named = dict(titles), look.narrow or axes is axes.figure.axes[0]
    for (device, row), value in zip(pairs, values, strict=True):
        if title := titles.pop(device.name, ""):
            line += 1 + title.count("\n")
            if named:
                axes.text(0.01, line - 0.5, title, weight="bold", size=10, va="bottom",
                          transform=left, in_layout=False)  # fmt: skip
        lines.append(line)
        labels.append(look.engine(row).replace("\n", " · "))
        if value is not None:
            colour = look.colour(row.precision)
            axes.plot(value, line, look.mark(row.backend), ms=8, color=colour)
        line += 1
    axes.set_yticks(lines, labels)
    axes.tick_params(labelleft=named)
    axes.set_ylim(line - 0.4, -0.6)


def draw_latency(device: DeviceReport) -> Chart | None:
    """The distribution of every engine's latencies; None where none is known."""
    known = {(d.precision, d.backend, d.batch): d for d in device.comparison.distributions}
    pairs = [
        (row, known[row.precision, row.backend, row.batch or 0])
        for row in device.engines
        if (row.precision, row.backend, row.batch) in known
    ]
    if not pairs:
        return None

    def draw(look: Look) -> Figure:
        figure = look.figure(36 * len(pairs) + 50)
        axes = figure.subplots()
        ends = [q for _, d in pairs for q in d.quantiles_ms] + [
            r.p99_ms or latency(r) for r, _ in pairs
        ]
        span(axes, "x", filter(lambda end: end > 0, ends), look.width - 120)
        for line, (row, distribution) in enumerate(pairs):
            _bands(axes, line, row, distribution, look)
        axes.set_yticks(range(len(pairs)), [look.engine(row) for row, _ in pairs])
        axes.set_ylim(len(pairs) - 0.4, -0.6)
        axes.set_xlabel("latency in ms, end to end")
        axes.grid(visible=False, axis="y")
        return figure

    said = "; ".join(
        f"{engine_name(row)}: p50 {figures(row.p50_ms)}, p90 {figures(row.p90_ms)}, "
        f"p99 {figures(row.p99_ms)} ms"
        for row, _ in pairs
    )
    return Chart(
        "Latency",
        "Bands hold 50, 80 and 99 % of the calls. Marks are p50 (tallest), p90 and p99, with 95 % "
        "confidence intervals below.",
        said,
        draw,
    )


def _bands(axes: Axes, line: int, row: ComparedRow, d: Distribution, look: Look) -> None:
    colour = look.colour(row.precision)
    for low, high, opacity in _BANDS:
        left, right = np.interp((low, high), QUANTILES, d.quantiles_ms)
        axes.barh(line - 0.08, right - left, 0.34, left, color=colour, alpha=opacity, lw=0)
    marks = (
        (row.p50_ms, row.p50_interval, 0.36),
        (row.p90_ms, row.p90_interval, 0.24),
        (row.p99_ms, row.p99_interval, 0.16),
    )
    for value, interval, height in marks:
        if value is not None:
            axes.vlines(value, line - 0.08 - height, line + 0.09, color=INK, lw=1.6)
            axes.plot(interval or (value, value), [line + 0.2] * 2, "|-", color=INK, lw=1.3, ms=4)


def draw_batches(device: DeviceReport) -> Chart | None:
    """Throughput over batch size; None where only one was measured."""
    lines: dict[tuple[str, str], list[ComparedRow]] = {}
    for row in device.comparison.rows:
        if row.batch is not None and row.images_per_s is not None:
            lines.setdefault((row.precision, row.backend), []).append(row)
    rows = [row for line in lines.values() for row in line]
    sizes = sorted({row.batch or 0 for row in rows})
    if len(sizes) < 2:
        return None

    def draw(look: Look) -> Figure:
        figure = look.figure(300)
        axes = figure.subplots()
        rates = [row.images_per_s or 0.0 for row in rows]
        for line in lines.values():
            precision, backend = line[0].precision, line[0].backend
            axes.plot(
                [row.batch or 0 for row in line], [row.images_per_s or 0.0 for row in line],
                marker=look.mark(backend), ls=look.dash(backend), color=look.colour(precision),
                lw=2, ms=6,
            )  # fmt: skip
        far = max(rates) > _FAR * min(rates)  # a linear axis would press some to the ground
        span(axes, "y", rates if far else [0, *rates], 220)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda size, _: f"{size:g}")
        axes.set(xlabel="batch size", ylabel=RATE)
        look.legend(figure, rows, look.dash)
        return figure

    said = "; ".join(
        f"{engine_name(line[0])}: "
        + ", ".join(f"{figures(row.images_per_s)} at batch {row.batch}" for row in line)
        for line in lines.values()
    )
    return Chart(
        "Throughput over batch size",
        "Images per second, end to end: all images by the time of all calls.",
        said,
        draw,
    )


def draw_sensitivity(precision: str, layers: Sequence[LayerSensitivity]) -> Chart | None:
    """A field for each layer, a column for each block; None where names tell no blocks."""
    matches = [(_LAYER.fullmatch(layer.unit), layer) for layer in layers[:_MOST_LAYERS]]
    fields = {(m[2], int(m[1])): max(s.error, 1e-12) for m, s in matches if m}
    if not fields:
        return None
    kinds = list(dict.fromkeys(kind for kind, _ in fields))
    blocks = sorted({block for _, block in fields})
    grid = np.ma.masked_invalid(np.full((len(kinds), len(blocks)), np.nan))
    for (kind, block), value in fields.items():
        grid[kinds.index(kind), blocks.index(block)] = value

    def draw(look: Look) -> Figure:
        figure = look.figure(30 * len(kinds) + 96)
        axes = figure.subplots()
        low, high = float(grid.min()), float(grid.max())
        mesh = axes.pcolormesh(
            grid, norm=LogNorm(low, max(high, 1.01 * low)), edgecolors="face", lw=0.2,
            cmap=SHADES,
        )  # fmt: skip
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_yticks(np.arange(len(kinds)) + 0.5, [_short(kind) for kind in kinds])
        step = -(-len(blocks) // 12)
        axes.set_xticks(np.arange(0, len(blocks), step) + 0.5, list(map(str, blocks[::step])))
        axes.set_xlabel("block")
        bar = figure.colorbar(mesh, location="bottom", aspect=30, label=ERROR)
        span(bar.ax, "x", (low, max(high, 1.01 * low)), look.width - 100)
        bar.ax.set_xlim(low, max(high, 1.01 * low))
        return figure

    worst = sorted(layers, key=lambda layer: -layer.error)[:3]
    return Chart(
        f"Sensitivity to {precision}",
        "The error of the whole model when only this layer is quantised, as the export measured "
        "it.",
        "Most sensitive: " + ", ".join(f"{layer.unit} ({layer.error:.2g})" for layer in worst),
        draw,
    )


def _short(kind: str) -> str:
    """The last names of a layer; layers that are quantised together are joined by " + "."""
    return kind.split(" + ")[0].rpartition(".")[2][:12]
