"""`vit-edge compare`: which engine to use on this device."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...bundle import Bundle
from ...errors import install_command
from ...files import write_whole
from ...schema import encode
from ..check import OK, cell, print_machine, print_outputs
from ..display import complain, print_table, say
from ..measure.statistics import Estimate
from ..profile.show import columns, fact_rows
from ..report import MissingExtraError, draw_report
from .comparison import ComparedRow, Comparison
from .contest import SECONDS
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
HTML, JSON = "report.html", "report.json"
_READABLE = 0o644


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
        help=f"where report.json and report.html go; {NO_REPORT!r} writes none; "
        "default: BUNDLE.compare, beside the bundle",
    )  # fmt: skip


def run_compare(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    comparison = compare_bundle(
        bundle,
        arguments.batch,
        arguments.seconds,
        arguments.precision,
        arguments.backend,
        threads=arguments.threads,
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
    print_outputs(comparison.rows)
    for pair in comparison.not_faster:
        print_table(pair.title, columns(pair), list(fact_rows(pair)))
        print(f"{pair.sentence} From {pair.source}.")
    for row in comparison.rows:
        if row.status != OK:
            print(f"{row.precision} on {row.backend}, {row.status}")
    print_machine(comparison.machine, comparison.not_run)
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
    """Writes the reports that were asked for; failing to write one is a warning, not an error."""
    if asked == NO_REPORT:
        return
    folder = default_folder(bundle) if asked is None else Path(asked)
    try:
        say(f"report: {write_reports(comparison, folder)}")
    except MissingExtraError:
        say(
            f"report: {folder / JSON}; to draw it, here or elsewhere: "
            f"{install_command('report')}, then vit-edge report {folder / JSON}"
        )
    except OSError as error:
        complain(
            f"no report: {folder} cannot be written ({error.strerror}): choose another --report"
        )


def default_folder(bundle: Path) -> Path:
    """`<bundle>.compare/`, beside the bundle, which is itself never written to."""
    path = Path(os.path.abspath(bundle))
    return path.with_name(f"{path.name}.compare")


def write_reports(comparison: Comparison, folder: Path) -> Path:
    """Writes the numbers and then the page, each whole or not at all; returns the page's path.

    Raises:
        OSError: if `folder` cannot be made or written to; an earlier report stays whole.
        MissingExtraError: if the page cannot be drawn here; the numbers are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / JSON, encode(comparison).encode(), mode=_READABLE)
    write_whole(folder / HTML, draw_report([comparison]).encode(), mode=_READABLE)
    return folder / HTML
