"""Output of the commands: tables and bars, drawn by rich where it is installed, else plain text."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

_PIPED_WIDTH = 160
_verbosity = ContextVar("verbosity", default=0)
"""-1 where the user wants no news, 1 where all of it."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table to standard output."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        _print_plain(title, columns, rows)
        return
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    # Piped output has no width of its own, and 80 columns would fold long cells.
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)


def _print_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    print(title)
    for line in [columns, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def shows_bars() -> bool:
    """Tells whether `progress_bar` shows anything: where rich, a terminal and news are there."""
    return find_spec("rich") is not None and _verbosity.get() >= 0 and sys.stderr.isatty()


@contextmanager
def progress_bar(name: str, rate: str = "") -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on standard error while the block runs, where `shows_bars`.

    Args:
        name: What is under way.
        rate: Unit of the steps in a second, as "images/s", which are shown beside it; "" for none.

    Yields the function that moves it, to steps done out of steps in all.
    """
    if not shows_bars():
        yield lambda done, total: None
        return
    import rich.progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn(name),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeElapsedColumn(),
        *([bars.TimeRemainingColumn()] if rate else []),
        console=Console(stderr=True),
        transient=True,
    ) as display:
        task = display.add_task(name, total=None, rate="")

        def move(done: int, total: int) -> None:
            speed = display.tasks[task].speed if rate else None
            text = "" if speed is None else f"{figures(speed)} {rate}"
            display.update(task, completed=done, total=total, rate=text)

        yield move


def say(message: str) -> None:
    """A line of news, on standard error so that `--json` stays clean; `-q` leaves it out."""
    if _verbosity.get() >= 0:
        complain(message)


def detail(message: str) -> None:
    """A line of news that `-v` asks for."""
    if is_verbose():
        complain(message)


def is_verbose() -> bool:
    """Tells whether the user asks for details."""
    return _verbosity.get() > 0


def complain(message: str) -> None:
    """A line about what went wrong, on standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def verbosity(level: int) -> Iterator[None]:
    """Decides what is printed while the block runs: -1 no news, no progress and no warnings of the
    log, 0 these, 1 details too.
    """
    token, disabled = _verbosity.set(level), logging.root.manager.disable
    if level < 0:
        logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)
        _verbosity.reset(token)


def percent(rate: float | None) -> str:
    """Formats a rate between 0 and 1 as a percentage; None as "-"."""
    return "-" if rate is None else f"{100 * rate:.2f} %"


def figures(value: float | None) -> str:
    """Three significant digits, without a power of ten where the number is large."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def mebibytes(size: int) -> str:
    """Formats a number of bytes as MiB."""
    return f"{size / 2**20:.2f} MiB"
