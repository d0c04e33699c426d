"""`vit-edge tune`: the fastest way to run each precision on this device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ...bundle import Bundle
from ...deployment import Deployment
from ...selection import LEVEL
from ..check import cell, print_machine
from ..display import is_verbose, print_table
from ..measure.statistics import Estimate
from .kept import forget_variants
from .run import SECONDS, TunedRow, Tuning, require_kept, tune_bundle

COLUMNS = (
    "precision", "backend", "variant", "batch", "p50_ms", "gain", "golden", "rms_error", "status",
)  # fmt: skip
HEADINGS = {"p50_ms": "median, ms", "gain": "x default", "rms_error": "error"}


def add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `tune`."""
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1], metavar="N",
        help="batch sizes: faster at one, and slower at none; default: 1",
    )  # fmt: skip
    parser.add_argument(
        "--precision", nargs="+", default=[], metavar="P", help="default: all that run here"
    )
    parser.add_argument(
        "--backend", nargs="+", default=[], metavar="B", help="default: all that run here"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S",
        help="least time for each variant and batch size; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--forget", action="store_true", help="measure nothing, and run as before any tuning"
    )
    parser.set_defaults(find_forms=None)


def run_tune(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, faster or not; 1 if something is wrong."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    if arguments.forget:
        return _forget(bundle, arguments)
    tuning = tune_bundle(
        bundle,
        arguments.batch,
        arguments.seconds,
        arguments.precision,
        arguments.backend,
        threads=arguments.threads,
        find_forms=arguments.find_forms,
    )
    if arguments.json:
        print(json.dumps(asdict(tuning) | {"good": tuning.good}, indent=2, allow_nan=False))
    else:
        _show(tuning)
    return 0 if tuning.good else 1


def _forget(bundle: Bundle, arguments: argparse.Namespace) -> int:
    """Forgets what was kept for these precisions and backends, whether they run here or not."""
    deployment = Deployment(bundle)
    asked = [
        candidate
        for precision in arguments.precision or [None]
        for backend in arguments.backend or [None]
        for candidate in deployment.candidates(precision, backend)
    ]
    require_kept(deployment)
    forgotten = [
        f"{candidate.default}: {variant.name}"
        for candidate in asked
        for variant in forget_variants(deployment, candidate.precision, candidate.backend.name)
    ]
    if arguments.json:
        print(json.dumps({"forgotten": forgotten}, indent=2))
        return 0
    for line in forgotten:
        print(f"forgotten: {line}")
    if not forgotten:
        print("nothing was kept here")
    return 0


def _show(tuning: Tuning) -> None:
    names = [HEADINGS.get(column, column) for column in COLUMNS]
    cells = [_cells(row) for row in tuning.rows]
    print_table(f"variants of {tuning.name} on {tuning.machine.cpu}", names, cells)
    for row in tuning.rows:
        if row.status.partition(":")[2]:
            print(f"{row.precision} on {row.backend}, {row.variant}: {row.status}")
    if is_verbose():
        for row in tuning.rows:
            if row.about:
                print(f"{row.precision} on {row.backend}, {row.variant}: {row.about}")
    for name, problem in tuning.not_tuned.items():
        print(f"{name}: no other forms were tried: {problem}")
    print_machine(tuning.machine, tuning.not_run)
    for note in tuning.notes:
        print(f"note: {note}")
    for name, variant in tuning.kept.items():
        if variant is not None:
            print(f"kept: {name} runs with {variant} from now on (--forget undoes it)")
    if not any(tuning.kept.values()):
        print(f"nothing is {LEVEL:g} times as fast as the default, so the defaults stay")


def _cells(row: TunedRow) -> Sequence[str]:
    return [_cell(column, getattr(row, column)) for column in COLUMNS]


def _cell(column: str, value: float | int | str | Estimate | None) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
    if column == "status" and isinstance(value, str):
        return value.partition(":")[0]  # the reason has a line of its own
    if column == "rms_error" and isinstance(value, float):
        return f"{value:.1e}"
    return cell(column, value)
