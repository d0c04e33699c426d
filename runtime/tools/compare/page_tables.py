"""The report's tables: all numbers, and the conditions that they were measured in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from html import escape

from ..check import OK
from ..display import figures, mebibytes, percent
from ..measure.rounds import EARLY_STOPPING_CALLS, MLPERF_SECONDS
from ..measure.statistics import Estimate
from . import looks
from .comparison import ComparedRow, Comparison
from .svg import TIMES, element

_DASH = "-"
_Show = Callable[[ComparedRow], str]


def draw_table(c: Comparison) -> str:
    """A line for each row; the engine's name stays in sight while the rest is scrolled."""
    chosen = (c.recommendation.precision, c.recommendation.backend)
    columns = {
        name: show for name, show in _COLUMNS.items() if any(show(row) != _DASH for row in c.rows)
    }
    head = element("tr", *(element("th", escape(name)) for name in ("engine", *columns)))
    lines = []
    for row in c.rows:
        best = (row.precision, row.backend) == chosen
        cells = [element("td", escape(looks.name(row))), *_cells(row, columns.values())]
        lines.append(element("tr", *cells, class_="best" if best else "other"))
    table = element("table", element("thead", head), element("tbody", *lines))
    return element("div", table, class_="scroll", tabindex=0)


def _cells(row: ComparedRow, columns: Collection[_Show]) -> Iterator[str]:
    if row.batch is None:
        yield element("td", escape(row.status), class_="wrong", colspan=len(columns))
        return
    for show in columns:
        yield element("td", show(row))


def _number(value: float | None, form: str) -> str:
    return _DASH if value is None else format(value, form)


def _within(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return _DASH
    span = element("span", " to ".join(map(figures, interval)), class_="pm")
    return f"{figures(value)}{span}"


def _times(ratio: Estimate | None) -> str:
    if ratio is not None and ratio.low == ratio.value == ratio.high == 1:  # itself
        return "1"
    return _DASH if ratio is None else _within(ratio.value, (ratio.low, ratio.high))


_COLUMNS: dict[str, _Show] = {
    "batch": lambda r: _number(r.batch, "d"),
    "p50 ms": lambda r: _within(r.p50_ms, r.p50_interval),
    "p90 ms": lambda r: _within(r.p90_ms, r.p90_interval),
    "p99 ms": lambda r: figures(r.p99_ms),
    "device ms": lambda r: figures(r.device_ms),
    "images/s": lambda r: _within(r.images_per_s, r.images_per_s_interval),
    f"{TIMES} fp32": lambda r: _times(r.speedup),
    f"latency, {TIMES} fastest": lambda r: _times(r.to_fastest),
    "top-1": lambda r: percent(r.top1),
    "agreement": lambda r: percent(r.agreement),
    "cosine": lambda r: _number(r.cosine, ".5f"),
    "RMS error": lambda r: _number(r.rms_error, ".1e"),
    "size": lambda r: _DASH if r.bytes is None else mebibytes(r.bytes),
    "calls": lambda r: _number(r.calls, ",d"),
    "busy cores": lambda r: _number(r.cores, ".2f"),
    "status": lambda r: _DASH if r.status == OK else escape(r.status),
}


def draw_environment(c: Comparison) -> str:
    """What a reader needs to judge the numbers, or to measure them again."""
    pairs = {name: value for name, value in _environment(c) if value}
    items = [
        element("dt", escape(name)) + element("dd", escape(value)) for name, value in pairs.items()
    ]
    return element("p", escape(_method(c)), class_="soft") + element("dl", *items, class_="plain")


def _method(c: Comparison) -> str:
    return (
        "MLPerf's SingleStream at batch 1 (one image in flight; MLPerf judges it by p90) and "
        "Offline above (images per second). End to end: from pixels in host memory to scores in "
        f"host memory; device time only where a backend can tell. At least {c.seconds:g} s and at "
        f"batch 1 {EARLY_STOPPING_CALLS} calls for each engine, in interleaved rounds whose order "
        "rotates, each after calls that do not count; MLPerf's own submissions take "
        f"{MLPERF_SECONDS:g} s. Intervals: 95 %, bootstrap over rounds. Top-1, agreement and error "
        "are those of the bundle's golden samples, on this device."
    )


def _environment(c: Comparison) -> Iterator[tuple[str, str]]:
    m, i = c.machine, c.interference
    yield "Processor", m.cpu
    yield "Cores allowed", f"{', '.join(map(str, m.cores))} of {m.cores_online}"
    yield "Clock", ", ".join(filter(None, (m.governor, m.frequency))) or "not told by this system"
    yield "Container's limit", m.cpu_limit or "none"
    yield "Free memory", mebibytes(m.memory_free)
    yield "Load average", f"{i.load_before:.2f} before, {i.load_after:.2f} after"
    if i.others is not None and i.stolen is not None:
        yield "Others' cores", f"{i.others:.2f} by other processes, {i.stolen:.2f} by other guests"
    yield (
        "Threads",
        ", ".join(f"{k}={v}" for k, v in m.thread_settings.items())
        or ("the libraries' own choice; busy cores are in the table"),
    )
    yield "System", m.system
    yield "Versions", ", ".join(f"{name} {number}" for name, number in m.versions.items())
    for name, why in c.not_run.items():
        yield f"Not run: {name}", why
    yield "Wrong here", ", ".join(looks.name(r) for r in c.rows if r.status != OK)
