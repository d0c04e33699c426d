"""Chart of where the time goes in precisions that are not faster than a higher one."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..display import figures
from ..profile.kernels import KINDS
from ..profile.work import EngineCall, NotFaster
from .axis import span
from .devices import DeviceReport
from .look import COLOURS, SOFT, Chart, Look, shorten

_COLOURS = dict(zip(KINDS, (*COLOURS, SOFT), strict=True))
_LETTER, _HANDLE = 6.6, 38
"""Points of a letter and of a legend's mark."""


def draw_slow(device: DeviceReport) -> Chart | None:
    """Two bars for each pair, of parts by kind; None where no kinds are known."""
    pairs = [p for p in device.comparison.not_faster if p.slow.shares and p.higher.shares]
    if not pairs:
        return None
    bars = _bars(pairs)
    kinds = [kind for kind in KINDS if any(work.milliseconds(kind) for work in bars)]

    def draw(look: Look) -> Figure:
        columns = _columns(kinds, look)
        figure = look.figure(34 * len(bars) + 20 * -(-len(kinds) // columns) + 60)
        axes = figure.subplots()
        longest = max(work.whole_ms for work in bars)
        span(axes, "x", (0.0, longest), look.width - 120)
        for line, work in enumerate(bars):
            left = 0.0
            for kind in kinds:
                axes.barh(line, work.milliseconds(kind), 0.6, left, color=_COLOURS[kind], lw=0)
                left += work.milliseconds(kind)
        join = "\n" if look.narrow else " · "
        names = [join.join((shorten(work.precision), shorten(work.backend))) for work in bars]
        axes.set_yticks(range(len(bars)), names)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlabel("latency in ms, by kind of work")
        axes.grid(visible=False, axis="y")
        handles = [
            Line2D([], [], lw=7, solid_capstyle="butt", color=_COLOURS[kind], label=kind)
            for kind in kinds
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure

    return Chart(
        "Where the time goes",
        "Precisions that are not faster than a higher one, with the higher one below. On CPUs the "
        "parts of the measured median, by a profile; of TensorRT's engines estimates.",
        "; ".join(_said(work, kinds) for work in bars),
        draw,
    )


def _bars(pairs: Sequence[NotFaster]) -> list[EngineCall]:
    """Those of each backend together, every engine once, the higher precisions last."""
    backends = dict.fromkeys(pair.slow.backend for pair in pairs)
    works = list[EngineCall]()
    for backend in backends:
        of_it = [pair for pair in pairs if pair.slow.backend == backend]
        slow, higher = [p.slow for p in of_it], [p.higher for p in of_it]
        by_name = {work.precision: work for work in slow}
        by_name |= {work.precision: work for work in higher if work.precision not in by_name}
        works += by_name.values()
    return works


def _columns(labels: Sequence[str], look: Look) -> int:
    longest = max(map(len, labels))
    return max(1, min(len(labels), int((look.width - 20) / (_LETTER * longest + _HANDLE))))


def _said(work: EngineCall, kinds: Sequence[str]) -> str:
    parts = [f"{k} {figures(work.milliseconds(k))} ms" for k in kinds if work.milliseconds(k)]
    return f"{work.precision} · {work.backend}: {', '.join(parts)}"
