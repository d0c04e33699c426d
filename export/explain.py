"""Explains a quantised precision: a row for each of its layers, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .assemble import PrecisionResult
from .quantise.linear_layers import LayerExplanation

COLUMNS = (
    "part",
    "input's largest channel",
    "median channel",
    "alpha",
    "largest, smoothed",
    "median, smoothed",
    "SQNR",
    "error alone",
    "rank",
    "",
)
ABOUT = (
    "The channels are those of the input, by their largest magnitude over the calibration images, "
    "before and after smoothing with SmoothQuant's alpha. SQNR is the signal-to-quantisation-noise "
    "ratio of the outputs on calibration samples. The error alone is what the model's outputs lose "
    "(root mean square, relative to what tells images apart) when only this layer is quantised; "
    "rank 1 loses the most for the work that it saves, and is the first to fall back to more bits."
)
FALLBACK = "fallback"
_LONGEST = 32
"""Characters of a layer's name in the picture."""


def explain(result: PrecisionResult) -> list[tuple[str, ...]]:
    """The rows of a quantised precision, in graph order, under `COLUMNS`."""
    if result.quantisation is None:
        return []
    about = _by_module(result.quantisation.explanation)
    ranks = {s.layer: place for place, s in enumerate(result.quantisation.ranking, 1)}
    fallback = result.fallback.layers if result.fallback else ()
    rows = []
    for s in result.quantisation.sensitivities:
        layer = about.get(s.layer.split(" + ")[0])
        end = (f"{s.error:.5f}", str(ranks[s.layer]), FALLBACK if s.layer in fallback else "")
        rows.append((s.layer, *(_cells(layer) if layer else ("-",) * 6), *end))
    return rows


def _by_module(explanation: Sequence[LayerExplanation]) -> dict[str, LayerExplanation]:
    return {module: layer for layer in explanation for module in layer.sqnr_db}


def _cells(layer: LayerExplanation) -> tuple[str, ...]:
    moved = layer.alpha is not None
    return (
        f"{layer.before.largest:.3g}",
        f"{layer.before.median:.3g}",
        f"{layer.alpha:.1f}" if layer.alpha is not None else "-",
        f"{layer.after.largest:.3g}" if moved else "-",
        f"{layer.after.median:.3g}" if moved else "-",
        ", ".join(f"{db:.1f} dB" for db in layer.sqnr_db.values()),
    )


def draw(result: PrecisionResult, path: Path) -> None:
    """Draws SQNR, activation ranges and sensitivities as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert result.quantisation is not None
    explanation = result.quantisation.explanation
    figure = Figure(figsize=(11, 11 if explanation else 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3 if explanation else 1, 1, squeeze=False)[:, 0]
    if explanation:
        _draw_ranges(panels[0], explanation)
        _draw_sqnr(panels[1], explanation)
    _draw_sensitivities(panels[-1], result)
    figure.suptitle(f"{result.name}: what quantisation does to each layer")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_ranges(axes: Any, explanation: Sequence[LayerExplanation]) -> None:
    place = np.arange(len(explanation))
    names = [" + ".join(layer.sqnr_db) for layer in explanation]
    for shift, colour, label in ((-0.15, "tab:red", "before"), (0.15, "tab:blue", "after")):
        channels = [getattr(layer, label) for layer in explanation]
        low, high = ([getattr(c, end) for c in channels] for end in ("median", "largest"))
        axes.vlines(place + shift, low, high, colors=colour, label=f"{label} smoothing")
        axes.plot(place + shift, high, "_", color=colour)
        axes.plot(place + shift, low, ".", color=colour)
    axes.set(yscale="log", ylabel="magnitude", title="Input channels: median (dot) to largest")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    _name(axes, names)


def _draw_sqnr(axes: Any, explanation: Sequence[LayerExplanation]) -> None:
    ratios = {name: db for layer in explanation for name, db in layer.sqnr_db.items()}
    axes.bar(range(len(ratios)), ratios.values(), color="tab:green")
    axes.set(ylabel="dB", title="Signal-to-quantisation-noise ratio of the outputs")
    _name(axes, list(ratios))


def _draw_sensitivities(axes: Any, result: PrecisionResult) -> None:
    assert result.quantisation is not None
    ranking = result.quantisation.ranking
    fallback = result.fallback.layers if result.fallback else ()
    colours = ["tab:red" if s.layer in fallback else "tab:blue" for s in ranking]
    axes.bar(range(len(ranking)), [s.error for s in ranking], color=colours)
    title = "Error of the outputs when one layer alone is quantised, in the order of the fallback"
    axes.set(ylabel="relative error", title=title)
    if fallback:
        axes.bar([0], [0], color="tab:red", label="fallback")
        axes.legend()
    _name(axes, [s.layer for s in ranking])


def _name(axes: Any, names: Sequence[str]) -> None:
    """Names the ticks; long names are cut to their end, which tells layers apart and saves room."""
    short = [n if len(n) <= _LONGEST else f"…{n[1 - _LONGEST :]}" for n in names]
    axes.set_xticks(range(len(short)), short, rotation=90, fontsize=6 if len(short) > 30 else 8)
    axes.margins(x=0.01)
