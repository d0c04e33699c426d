"""`vit-edge report`: one page of the reports that `compare` wrote on one device or on several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import write_whole
from ...schema import SchemaError, decode, parse_json
from ..compare.comparison import REPORT_VERSION, Comparison
from ..display import say
from . import draw_report

_MOST_BYTES = 16 << 20
_READABLE = 0o644


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `report`."""
    parser.add_argument(
        "reports", type=Path, nargs="+", metavar="JSON", help="report.json, as `compare` writes it"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s"
    )


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    page = draw_report([read_report(path) for path in arguments.reports])
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, page.encode(), mode=_READABLE)
    except OSError as error:
        raise InputError(f"{arguments.out} cannot be written ({error.strerror})") from None
    say(f"report: {arguments.out}")
    return 0


def read_report(path: Path) -> Comparison:
    """Reads what `compare` wrote, as strictly as a manifest.

    Raises:
        InputError: if it cannot be read, is something else or was made by a newer version.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} has more than {_MOST_BYTES >> 20} MiB: no report is as large")
    try:
        report = parse_json(data)
        _require_known(path, report)
        return decode(Comparison, report, "report")
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        reason = str(error)[:300]
        raise InputError(f"{path} is not a report of `vit-edge compare`: {reason}") from None


def _require_known(path: Path, report: Any) -> None:
    version = report.get("version") if isinstance(report, dict) else None
    if type(version) is int and version > REPORT_VERSION:
        raise InputError(
            f"{path} was made by a newer version of vit-edge (report version {version}, known is "
            f"{REPORT_VERSION}): use that version, or a newer one"
        )
    if type(version) is not int or version < 1:
        raise SchemaError(f"it has no report version from 1 to {REPORT_VERSION}")
