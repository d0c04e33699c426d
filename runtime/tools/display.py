"""Output of the commands: tables, drawn by rich where it is installed, in plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_PIPED_WIDTH = 160


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


def say(message: str) -> None:
    """A line of news, on standard error so that `--json` stays clean."""
    print(message, file=sys.stderr, flush=True)


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def figures(value: float | None) -> str:
    """Three significant digits, without a power of ten where the number is large."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
