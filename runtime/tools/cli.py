"""The command line `vit-edge`, the same as `python -m vit_edge`.

Each command is a module with the function that runs it and, where it has options of its own, one
that adds them. None imports PyTorch; `export` attaches as a plugin.
"""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from vit_edge import __version__

from ..errors import VitEdgeError, install_command
from .build import add_build_arguments, run_build
from .check import run_check
from .command_line import run_program
from .compare.command import add_compare_arguments, run_compare
from .display import verbosity
from .estimate import add_estimate_arguments, run_estimate
from .health.command import add_drift_arguments, run_drift
from .inspect import add_inspect_arguments, run_inspect
from .replay.command import add_replay_arguments, run_replay
from .report.command import add_report_arguments, run_report
from .run import add_run_arguments, run_run
from .score.command import add_score_arguments, run_score
from .signing import add_sign_arguments, run_sign
from .triton.command import add_triton_arguments, run_triton
from .tune.command import add_tune_arguments, run_tune

Parsers = argparse._SubParsersAction  # argparse has no public name for it
PLUGINS = "vit_edge.commands"
"""Entry point group: functions that add commands to the command line.

The runtime itself imports no other package.
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole argument tree, with the commands of the packages that are installed."""
    parser = argparse.ArgumentParser(
        prog="vit-edge", description="Vision Transformers on edge devices, proven right."
    )
    parser.add_argument("--version", action="version", version=f"vit-edge {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_commands(parsers)
    for plugin in entry_points(group=PLUGINS):
        plugin.load()(parsers)
    if "export" not in parsers.choices:
        missing = parsers.add_parser("export", help="make a bundle (not installed)", add_help=False)
        missing.set_defaults(run=_export_missing)
    for command in parsers.choices.values():
        _add_verbosity(command)
    return parser


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.set_defaults(verbosity=0)
    for flag, name, level, text in (
        ("-q", "--quiet", -1, "no news, but results and errors"),
        ("-v", "--verbose", 1, "all reasons, and what this machine is"),
    ):
        group.add_argument(
            flag, name, dest="verbosity", action="store_const", const=level, help=text
        )


def _add_commands(parsers: Parsers[argparse.ArgumentParser]) -> None:
    check = _add(parsers, "check", run_check, "test every engine that runs here on golden samples")
    compare = _add(
        parsers, "compare", run_compare, "compare latency and accuracy across precisions"
    )
    add_compare_arguments(compare)
    report = parsers.add_parser(
        "report", help="draw what `compare` measured, of several devices in one page"
    )
    report.set_defaults(run=run_report)
    add_report_arguments(report)
    inspect = _add(parsers, "inspect", run_inspect, "print what a bundle holds and how it was made")
    add_inspect_arguments(inspect)
    build = _add(parsers, "build", run_build, "build engines for this device, into its cache")
    add_build_arguments(build)
    tune = _add(
        parsers, "tune", run_tune, "find the fastest way to run each precision on this device"
    )
    add_tune_arguments(tune)
    estimate = _add(
        parsers, "estimate", run_estimate, "estimate latencies on devices that are not at hand"
    )
    add_estimate_arguments(estimate)
    run = _add(
        parsers, "run", run_run, "classify images: the likeliest classes of each, or its features"
    )
    add_run_arguments(run)
    score = _add(
        parsers, "score", run_score, "write the outputs of many images to Parquet files, resumably"
    )
    add_score_arguments(score)
    drift = _add(
        parsers, "drift", run_drift, "tell whether images are still like those of the export"
    )
    add_drift_arguments(drift)
    sign = _add(parsers, "sign", run_sign, "sign a bundle, so that devices can demand it")
    add_sign_arguments(sign)
    triton = _add(parsers, "triton", run_triton, "write a model repository for Triton")
    add_triton_arguments(triton)
    replay = _add(
        parsers, "replay", run_replay, "test an inference server on the bundle's golden samples"
    )
    add_replay_arguments(replay)
    for parser in (
        check,
        compare,
        inspect,
        build,
        tune,
        estimate,
        run,
        score,
        triton,
        replay,
        drift,
    ):
        parser.add_argument(
            "--public-key", type=Path, metavar="FILE", help="demand a signature of this key"
        )
    for parser in (check, compare, tune, run, score, drift):
        parser.add_argument(
            "--threads", type=int, metavar="N",
            help="CPU threads that compute; default: one for each core that a quota feeds",
        )  # fmt: skip
    for parser in (check, compare, inspect, tune, estimate, score, replay, drift):
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    run.add_argument(
        "--json", action="store_true", help="print a JSON object a line: images, then the engine"
    )


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


def _export_missing(arguments: argparse.Namespace) -> int:
    raise VitEdgeError(f"`export` is not installed here: {install_command('export')}")


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks how the line may go on, and ends the process; does nothing where
    the extra `completion` is not installed.
    """
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0 good, 1 a budget or check missed, 2 bad input
    or usage.
    """
    return run_program("vit-edge", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not _export_missing:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with verbosity(getattr(arguments, "verbosity", 0)):
        return int(arguments.run(arguments))
