"""`vit-edge compare`: which engine to use on this device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...bundle import Bundle
from ..check import OK, cell
from ..display import print_table, say
from ..measure.statistics import Estimate
from .comparison import ComparedRow, Comparison
from .contest import SECONDS
from .files import default_folder, write_reports
from .run import compare_bundle

COLUMNS = (
    "precision", "backend", "batch", "p50_ms", "p90_ms", "p99_ms", "images_per_s", "speedup",
    "to_fastest", "top1", "agreement", "rms_error", "bytes", "status",
)  # fmt: skip
HEADINGS = {
    "images_per_s": "images/s",
    "speedup": "x fp32",
    "to_fastest": "x fastest",
    "rms_error": "error",
}
NO_REPORT = "none"


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `compare`."""
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1], metavar="N",
        help="1 is a single stream, more are batches; default: 1",
    )  # fmt: skip
    parser.add_argument(
        "--precision", nargs="+", default=[], metavar="P", help="default: all that run here"
    )
    parser.add_argument(
        "--backend", nargs="+", default=[], metavar="B", help="default: all that run here"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S",
        help="least time for each engine and batch size; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--report", metavar="DIR",
        help=f"where report.html and report.json go; {NO_REPORT!r} writes none; "
        "default: BUNDLE.compare, beside the bundle",
    )  # fmt: skip


def run_compare(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    comparison = compare_bundle(
        bundle, arguments.batch, arguments.seconds, arguments.precision, arguments.backend
    )
    if arguments.json:
        print(json.dumps(asdict(comparison), indent=2, allow_nan=False))
    else:
        _show(comparison)
    _write(comparison, arguments.report, arguments.bundle)
    return 0 if comparison.good else 1


def _show(comparison: Comparison) -> None:
    names = [HEADINGS.get(column, column.replace("_", " ")) for column in COLUMNS]
    cells = [_cells(row, COLUMNS) for row in comparison.rows]
    print_table(f"{comparison.name} on {comparison.machine.cpu}", names, cells)
    for row in comparison.rows:
        if row.status != OK:
            print(f"{row.precision} on {row.backend}, {row.status}")
    for backend, reason in comparison.not_run.items():
        print(f"not run: {backend}: {reason}")
    for note in comparison.notes:
        print(f"note: {note}")
    chosen = comparison.recommendation
    name = "nothing" if chosen.precision is None else f"{chosen.precision} on {chosen.backend}"
    print(f"recommended here: {name}. {chosen.why}")


def _cells(row: ComparedRow, columns: Sequence[str]) -> list[str]:
    return [_cell(column, getattr(row, column)) for column in columns]


def _cell(column: str, value: float | int | str | Estimate | None) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.2f} ±{(value.high - value.low) / 2:.2f}"
    if column == "status" and isinstance(value, str):
        return value.partition(":")[0]  # the reason has a line of its own
    if column == "rms_error" and isinstance(value, float):
        return f"{value:.1e}"
    if column == "images_per_s" and isinstance(value, float):
        return f"{value:.1f}"
    return cell(column, value)


def _write(comparison: Comparison, asked: str | None, bundle: Path) -> None:
    """Writes the reports where they are wanted; that they cannot be written is said, no more."""
    if asked == NO_REPORT:
        return
    folder = default_folder(bundle) if asked is None else Path(asked)
    try:
        page = write_reports(comparison, folder)
    except OSError as error:
        say(f"no report: {folder} cannot be written ({error.strerror}): choose another --report")
    else:
        say(f"report: {page}")
