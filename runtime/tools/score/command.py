"""`vit-edge score`: the outputs of many images, in Parquet files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...answers import DEFAULT_TOP
from ..display import figures, say
from .run import LARGEST_BATCH, ROWS, Request, ScoreSummary, score


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `score`."""
    parser.add_argument(
        "data", type=Path, metavar="DATA",
        help="a folder of images, a text file with a path a line, or Parquet: a file or a folder",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder for the Parquet files; the same command goes on where it was interrupted",
    )  # fmt: skip
    parser.add_argument("--precision", metavar="P")
    parser.add_argument("--backend", metavar="B")
    parser.add_argument(
        "--column", metavar="C",
        help="the Parquet column with encoded images, paths, or structs of bytes and path; "
        "default: the only one that can be",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, metavar="N",
        help=f"images of one call; default: what the engine takes, up to {LARGEST_BATCH}",
    )  # fmt: skip
    parser.add_argument(
        "--top", type=int, default=DEFAULT_TOP, metavar="K", help="default: %(default)s classes"
    )
    parser.add_argument(
        "--rows", type=int, default=ROWS, metavar="N",
        help="images of one file, which an interruption costs at most; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="threads that decode; with --ray processes, each with an engine of --threads threads; "
        "default: as many as there are cores for",
    )  # fmt: skip
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="run on the Ray cluster at this address, as auto; without one, on a cluster of this "
        "machine's own",
    )  # fmt: skip


def run_score(arguments: argparse.Namespace) -> int:
    """Exit status 0 if every image was scored, 1 if some have an error instead."""
    request = Request(
        arguments.bundle,
        arguments.data,
        arguments.out,
        arguments.precision,
        arguments.backend,
        arguments.public_key,
        arguments.threads,
        arguments.workers,
        arguments.batch,
        arguments.rows,
        arguments.top,
        arguments.column,
    )
    if arguments.ray is None:
        summary = score(request)
    else:
        from .ray_data import score_on_ray  # loads Ray

        summary = score_on_ray(request, arguments.ray)
    if arguments.json:
        print(json.dumps(summary.fields(), indent=2))
    else:
        _show(summary)
    return 1 if summary.failed else 0


def _show(summary: ScoreSummary) -> None:
    rate = summary.images_per_second
    speed = "" if rate is None else f", {figures(rate)} images/s"
    print(f"{summary.rows:,} rows in {summary.files:,} files in {summary.out}{speed}")
    if summary.failed:
        say(f"{summary.failed:,} of them have an error instead of outputs: see the column `error`")
