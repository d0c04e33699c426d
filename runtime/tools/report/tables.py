"""Tables of a page: the engines of all devices, all numbers of one, and its conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..check import OK
from ..compare.comparison import ComparedRow, Comparison
from ..display import figures, mebibytes, percent
from ..measure.rounds import EARLY_STOPPING_CALLS, MLPERF_SECONDS
from ..measure.statistics import Estimate
from .devices import DeviceReport, engine_name

TIMES = "\u00d7"
_NONE = "-"


class Cell(NamedTuple):
    """A number as text, and its interval."""

    text: str
    interval: str = ""


class Line(NamedTuple):
    """Cells of a row; `chosen` where it is of the recommended engine, `wrong` where it failed."""

    cells: list[Cell]
    chosen: bool
    wrong: str


class Table(NamedTuple):
    """Columns that somebody filled, and the lines under them, in groups by title."""

    columns: list[str]
    groups: list[tuple[str, list[Line]]]


class _Item(NamedTuple):
    """Rows of an engine: the one that is shown, and the one with the most images per second."""

    device: DeviceReport
    row: ComparedRow
    best: ComparedRow


def all_numbers(device: DeviceReport) -> Table:
    """A line for each engine and batch size of a device."""
    columns = {name: _of_row(show) for name, show in _COLUMNS.items()}
    return _table(columns, [("", [_Item(device, row, row) for row in device.comparison.rows])])


def all_engines(devices: Sequence[DeviceReport]) -> Table:
    """A line for each device, precision and backend: at its smallest batch and its best rate."""
    groups = []
    for device in devices:
        failed = [row for row in device.comparison.rows if row.batch is None]
        first: dict[str, ComparedRow] = {}
        for row in (*device.engines, *failed):
            first.setdefault(engine_name(row), row)
        items = [_Item(device, row, device.best_rate(row)) for row in first.values()]
        groups.append((device.name, items))
    columns = {name: _of_row(_COLUMNS[name]) for name in ("batch", "p50 ms", "p90 ms")}
    columns["images/s, best"] = lambda item: _COLUMNS["images/s"](item.best)
    columns["at batch"] = lambda item: _COLUMNS["batch"](item.best)
    columns |= {name: _of_row(_COLUMNS[name]) for name in ("RMS error", "agreement", "size")}
    return _table(columns, groups)


def _of_row(show: Callable[[ComparedRow], Cell]) -> Callable[[_Item], Cell]:
    return lambda item: show(item.row)


def _table(
    columns: Mapping[str, Callable[[_Item], Cell]], groups: Sequence[tuple[str, Sequence[_Item]]]
) -> Table:
    """Leaves out the columns in which every cell is empty."""
    items = [item for _, group in groups for item in group]
    filled = {n: show for n, show in columns.items() if any(show(i).text != _NONE for i in items)}
    return Table(["engine", *filled], [(t, [_line(i, filled) for i in g]) for t, g in groups])


def _line(item: _Item, columns: Mapping[str, Callable[[_Item], Cell]]) -> Line:
    row = item.row
    cells = [Cell(engine_name(row)), *(show(item) for show in columns.values())]
    return Line(cells, item.device.is_chosen(row), "" if row.status == OK else row.status)


def _number(value: float | None, form: str) -> Cell:
    return Cell(_NONE if value is None else format(value, form))


def _within(value: float | None, interval: tuple[float, float] | None) -> Cell:
    return Cell(figures(value), "" if interval is None else " to ".join(map(figures, interval)))


def _times(ratio: Estimate | None) -> Cell:
    if ratio is not None and ratio.low == ratio.value == ratio.high == 1:  # itself
        return Cell("1")
    return Cell(_NONE) if ratio is None else _within(ratio.value, (ratio.low, ratio.high))


_COLUMNS: dict[str, Callable[[ComparedRow], Cell]] = {
    "batch": lambda r: _number(r.batch, "d"),
    "p50 ms": lambda r: _within(r.p50_ms, r.p50_interval),
    "p90 ms": lambda r: _within(r.p90_ms, r.p90_interval),
    "p99 ms": lambda r: Cell(figures(r.p99_ms)),
    "device ms": lambda r: Cell(figures(r.device_ms)),
    "images/s": lambda r: _within(r.images_per_s, r.images_per_s_interval),
    f"{TIMES} fp32": lambda r: _times(r.speedup),
    f"latency, {TIMES} fastest": lambda r: _times(r.to_fastest),
    "top-1": lambda r: Cell(percent(r.top1)),
    "agreement": lambda r: Cell(percent(r.agreement)),
    "cosine": lambda r: _number(r.cosine, ".5f"),
    "RMS error": lambda r: _number(r.rms_error, ".1e"),
    "size": lambda r: Cell(_NONE if r.bytes is None else mebibytes(r.bytes)),
    "calls": lambda r: _number(r.calls, ",d"),
    "busy cores": lambda r: _number(r.cores, ".2f"),
}


def method(c: Comparison) -> str:
    """The way in which the numbers of a device were measured."""
    return (
        "MLPerf's SingleStream at batch 1 (one image in flight; MLPerf judges it by p90) and "
        "Offline above (images per second). End to end: from pixels in host memory to scores in "
        f"host memory; device time only where a backend can tell. At least {c.seconds:g} s and at "
        f"batch 1 {EARLY_STOPPING_CALLS} calls for each engine, in interleaved rounds whose order "
        "rotates, each after calls that do not count; MLPerf's own submissions take "
        f"{MLPERF_SECONDS:g} s. Intervals: 95 %, bootstrap over rounds. Top-1, agreement and error "
        "are those of the bundle's golden samples, on this device."
    )


def conditions(c: Comparison) -> Iterator[tuple[str, str]]:
    """Facts that a reader needs to judge the numbers, or to measure them again."""
    m, i = c.machine, c.interference
    yield "Processor", m.cpu
    for backend, name in c.devices.items():
        if name != m.cpu:
            yield f"Device of {backend}", name
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
        or "the libraries' own choice; busy cores are in the table",
    )
    yield "System", m.system
    yield "Versions", ", ".join(f"{name} {number}" for name, number in m.versions.items())
    for name, why in c.not_run.items():
        yield f"Not run: {name}", why
