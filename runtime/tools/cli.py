"""The command line `vit-edge`, the same as `python -m vit_edge`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from importlib.metadata import entry_points

from vit_edge import __version__

from ..errors import VitEdgeError
from .command_line import run_program
from .commands import add_commands

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
    for plugin in entry_points(group=PLUGINS):
        plugin.load()(parsers)
    if "export" not in parsers.choices:
        missing = parsers.add_parser("export", help="make a bundle (not installed)", add_help=False)
        missing.set_defaults(run=_export_missing)
    add_commands(parsers)
    return parser


def _export_missing(arguments: argparse.Namespace) -> int:
    raise VitEdgeError("`export` is not installed here: pip install 'vit-edge[export]'")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0 good, 1 a budget or check missed, 2 bad input
    or usage.
    """
    return run_program("vit-edge", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not _export_missing:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return int(arguments.run(arguments))
