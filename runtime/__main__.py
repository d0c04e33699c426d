"""The command line `vit-edge`, the same as `python -m runtime`."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from .commands import add_commands
from .display import say
from .errors import InputError, VitEdgeError, first_line

PLUGINS = "vit_edge.commands"
"""Entry point group: functions that add commands to the command line.

The runtime itself imports no other package.
"""

CLOSED_PIPE = 141
"""Exit status of a program whose reader went away, as shells give it (128 + SIGPIPE)."""
DEBUG = "VIT_EDGE_DEBUG"
"""Environment variable: set, an unexpected error shows its traceback."""


def build_parser() -> argparse.ArgumentParser:
    """The whole argument tree, with the commands of the packages that are installed."""
    parser = argparse.ArgumentParser(
        prog="vit-edge", description="Vision Transformers on edge devices, proven right."
    )
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
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not _export_missing:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)


def _report(error: Exception | KeyboardInterrupt) -> int:
    """Says in a line what went wrong; returns the exit status."""
    if isinstance(error, VitEdgeError):
        say(f"vit-edge: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        say("vit-edge: interrupted")
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of our output went away
        _drop_output()
        return CLOSED_PIPE
    if isinstance(error, MemoryError):
        say("vit-edge: the machine has not enough memory: ask for less, as a smaller batch")
        return InputError.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _drop_output()
        say(f"vit-edge: no space left ({error.filename or 'standard output'})")
        return InputError.exit_code
    return _unexpected(error)


def _drop_output() -> None:
    """What is still buffered for standard output has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: Exception) -> int:
    """Raises `error` again where the user wants its traceback."""
    if os.environ.get(DEBUG):
        raise error
    what = f"{type(error).__name__}: {first_line(error)}"
    say(f"vit-edge: unexpected {what}; this is a bug: run again with {DEBUG}=1 and report it")
    return 3


if __name__ == "__main__":
    sys.exit(main())
