"""The commands of the base install, most of which need a backend: check, compare, report, inspect,
build, run, sign.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ..backends import BACKENDS, BuildOptions
from ..bundle import Bundle
from ..errors import InputError
from ..trust import SignedRelease
from .build import build_here
from .check import Row, check_bundle, row_cells
from .compare.command import add_compare_arguments, run_compare
from .display import mebibytes, percent, print_table
from .estimate import add_estimate_arguments, run_estimate
from .layers import print_json, print_tables, read_all
from .plan.show import PLAN_COLUMNS, plan_cells
from .report.command import add_report_arguments, run_report
from .run import add_run_arguments, run_run

Parsers = argparse._SubParsersAction  # argparse has no public name for it
GRAPH_COLUMNS = ("precision", "for", "file", "agreement", "cosine", "measured on")
CHECK_COLUMNS = ("precision", "backend", "top1", "reference_top1", "agreement", "cosine", "status")


def add_commands(parsers: Parsers[argparse.ArgumentParser]) -> None:
    """Adds this module's commands to the command line."""
    check = _add(parsers, "check", run_check, "test every engine that runs here on golden samples")
    report = parsers.add_parser(
        "report", help="draw what `compare` measured, of several devices in one page"
    )
    report.set_defaults(run=run_report)
    add_report_arguments(report)
    compare = _add(
        parsers, "compare", run_compare, "compare latency and accuracy across precisions"
    )
    add_compare_arguments(compare)
    inspect = _add(parsers, "inspect", run_inspect, "print what a bundle holds and how it was made")
    inspect.add_argument(
        "--layers", action="store_true", help="what each layer of its engines runs in"
    )
    inspect.add_argument("--precision", metavar="P", help="with --layers: of this one only")
    inspect.add_argument("--backend", metavar="B", help="with --layers: of this one only")
    build = _add(parsers, "build", run_build, "build engines for this device, into its cache")
    engines = [name for name, backend in BACKENDS.items() if backend.needs_engine]
    build.add_argument("--target", required=True, metavar="BACKEND", help=" or ".join(engines))
    build.add_argument("--precision", action="append", metavar="P", help="again for more")
    build.add_argument(
        "--time-limit",
        type=_positive,
        default=BuildOptions().time_limit_s,
        metavar="SECONDS",
        help="for each engine (default: %(default)g)",
    )
    estimate = _add(
        parsers, "estimate", run_estimate, "estimate latencies on devices that are not at hand"
    )
    add_estimate_arguments(estimate)
    run = _add(
        parsers, "run", run_run, "classify pictures: the likeliest classes of each, or its features"
    )
    add_run_arguments(run)
    sign = _add(parsers, "sign", run_sign, "sign a bundle, so that devices can demand it")
    sign.add_argument("--private-key", type=Path, required=True, metavar="FILE")
    sign.add_argument(
        "--release", type=int, required=True, metavar="N", help="devices refuse lower ones later"
    )
    sign.add_argument("--name", help="what the releases are of; default: the bundle's name")
    for parser in (check, compare, inspect, build, estimate, run):
        parser.add_argument(
            "--public-key", type=Path, metavar="FILE", help="demand a signature of this key"
        )
    for parser in (check, compare, inspect, estimate, run):
        parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add(
    parsers: Parsers[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> float:
    """A number of seconds from the command line."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return number


def run_check(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    bundle.verify()
    measured = check_bundle(bundle)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(measured), indent=2))
    else:
        names = [column.replace("_", " ") for column in CHECK_COLUMNS]
        rows = [row_cells(row, CHECK_COLUMNS) for row in measured.rows]
        print_table(f"golden samples of {bundle.manifest.name}", names, rows)
        for backend, reason in measured.not_run.items():
            print(f"not run: {backend}: {reason}")
    return 0 if measured.good else 1


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints the manifest; every file's hash is verified first."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    bundle.verify()
    manifest, spec = bundle.manifest, bundle.manifest.spec
    if arguments.layers:
        show = print_json if arguments.json else print_tables
        show(read_all(bundle, arguments.precision, arguments.backend))
        return 0
    if arguments.precision or arguments.backend:
        raise InputError("--precision and --backend go with --layers")
    if arguments.json:
        rows = [dataclasses.asdict(row) for row in _stored_rows(bundle)]
        print(json.dumps({"rows": rows, "manifest": dataclasses.asdict(manifest)}, indent=2))
        return 0
    shape = ", ".join(map(str, spec.image_shape))
    print(
        f"{manifest.name}, bundle {bundle.digest[:16]}: {len(manifest.files)} files, all verified"
    )
    if bundle.signed is not None:
        print(_signed(bundle.signed))
    print(f"{spec.input_name}: uint8 [N, {shape}], N from {spec.batch[0]} to {spec.batch[2]}")
    print(f"{spec.output_name}: float32 [N, {spec.outputs}]")
    for title, pairs in (
        ("model", manifest.model),
        ("made from", manifest.provenance),
        ("tools", manifest.tools),
    ):
        print_table(title, ("", ""), sorted(pairs.items()))
    _show_precisions(bundle)
    return 0


def _show_precisions(bundle: Bundle) -> None:
    precisions = bundle.manifest.precisions
    graphs = [
        (
            name,
            kind,
            g.file,
            percent(g.accuracy.agreement),
            f"{g.accuracy.cosine:.6f}",
            g.accuracy.measured_on,
        )
        for name, entry in precisions.items()
        for kind, g in entry.graphs.items()
    ]
    print_table("graphs", GRAPH_COLUMNS, graphs)
    engines, plans = [], []
    for name, entry in precisions.items():
        for e in entry.engines:
            size = mebibytes(bundle.manifest.files[e.file].size)
            capabilities = ", ".join(e.compute_capabilities) or "the library's default"
            engines.append((name, e.file, size, f"{e.backend} {e.version}", capabilities))
            plans.append((name, e.backend, *plan_cells(e.plan)))
    print_table("engines", ("precision", "file", "size", "built by", "for"), engines)
    if plans:
        print_table("what their builder compiled", ("precision", "by", *PLAN_COLUMNS), plans)
    for name, entry in precisions.items():
        if entry.raised:
            print(f"{name} leaves {', '.join(entry.raised)} in higher precision: {entry.reason}")


def _stored_rows(bundle: Bundle) -> list[Row]:
    """Returns the figures measured at export as rows of `compare`; `backend` is the kind."""
    return [
        Row(
            precision=name,
            backend=kind,
            status=graph.accuracy.measured_on,
            top1=graph.accuracy.top1,
            reference_top1=graph.accuracy.reference_top1,
            agreement=graph.accuracy.agreement,
            cosine=graph.accuracy.cosine,
            bytes=sum(bundle.manifest.files[f].size for f in (graph.file, *graph.external)),
        )
        for name, entry in bundle.manifest.precisions.items()
        for kind, graph in entry.graphs.items()
    ]


def run_build(arguments: argparse.Namespace) -> int:
    """Exit status 0 if every engine was built, 1 if one was not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    precisions = arguments.precision or []
    return 0 if build_here(bundle, arguments.target, precisions, arguments.time_limit) else 1


def run_sign(arguments: argparse.Namespace) -> int:
    """Writes a signature into the bundle."""
    from .signing import sign_bundle

    signed = sign_bundle(arguments.bundle, arguments.private_key, arguments.release, arguments.name)
    print(_signed(signed))
    return 0


def _signed(signed: SignedRelease) -> str:
    release = signed.release
    return f"signed: release {release.number} of {release.name}, by the key {signed.key[:16]}"
