"""`vit-edge replay`: the golden samples of a bundle through an inference server."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ...bundle import Bundle
from ...errors import InputError
from ..check import COLUMNS, print_outputs, row_cells
from ..display import print_table
from .judge import Expectation, replay
from .server import FORM, TIMEOUT_S, ServedModel, parse_address


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `replay`."""
    parser.add_argument("--url", required=True, metavar="URL", help=FORM)
    parser.add_argument(
        "--precision", metavar="P", help="whose tolerances judge; default: what the server says"
    )
    parser.add_argument(
        "--graph", choices=("cpu", "gpu"),
        help="of which of its graphs they are; default: what the server says",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S",
        help="seconds to wait for an answer; default: %(default)g",
    )  # fmt: skip


def run_replay(arguments: argparse.Namespace) -> int:
    """Exit status 0 if the server's outputs are right, 1 if they are not."""
    if not 0 < arguments.timeout < float("inf"):
        raise InputError(f"--timeout {arguments.timeout}: give a number of seconds above 0")
    address = parse_address(arguments.url)
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    with ServedModel(address, arguments.timeout) as served:
        verdict = replay(bundle, served, Expectation(arguments.precision, arguments.graph))
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(verdict), "good": verdict.good}, indent=2))
        return 0 if verdict.good else 1
    names = [column.replace("_", " ") for column in COLUMNS]
    title = f"{verdict.samples} golden samples of {bundle.manifest.name} through {address}"
    print_table(title, names, [row_cells(verdict.row, COLUMNS)])
    print_outputs([verdict.row])
    if verdict.served_bundle is None:
        print("note: the server does not say which bundle it runs")
    return 0 if verdict.good else 1
