"""The command `vit-edge drift`: judges images against the reference's statistics of a bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...engine import Engine
from ...errors import InputError
from ..display import complain, print_table, say
from ..image_sources import Sampling, SourceImage, Unreadable, read_each, score_each
from ..images import load_npz
from .drift import ALARM_RATE, DriftMonitor, DriftReport
from .judge import StatisticReport, fewest_images
from .statistics import NONE, is_class

MOST_IMAGES = 1 << 16
"""Of more the last ones are judged."""
_COLUMNS = ("statistic", "reference", "now", "shift", "by chance", "")


def add_drift_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `drift`."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of images, a video, an .npz with `images`, a camera's index or an address",
    )
    parser.add_argument("--precision", metavar="P")
    parser.add_argument("--backend", metavar="B")
    parser.add_argument(
        "--alarm-rate", type=float, default=ALARM_RATE, metavar="R",
        help=f"how often images like the reference's may be called drift; default: {ALARM_RATE}",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take each N-th frame of a video"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="take at most N frames of a video or camera"
    )


def run_drift(arguments: argparse.Namespace) -> int:
    """Judges all images together. The exit status is 0 without drift, and 1 with it or where an
    image could not be read; bad input raises InputError: a bundle without reference statistics, or
    too few images to tell.
    """
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    monitor = DriftMonitor(bundle, MOST_IMAGES, 1, arguments.alarm_rate)
    if monitor.reference is None:
        raise InputError(f"{bundle.path} has {NONE}")
    sampling = Sampling(arguments.every, arguments.frames)
    failed = 0
    with Engine.load(
        arguments.bundle,
        arguments.precision,
        arguments.backend,
        arguments.public_key,
        arguments.threads,
        observer=monitor,
    ) as engine:
        if not arguments.json:
            say(str(engine.info))
        for item, _ in score_each(engine, _items(arguments.data, engine, sampling)):
            if isinstance(item, Unreadable):
                failed += 1
                complain(f"vit-edge: {item.error}")
        info = engine.info
    report = monitor.report()
    least = fewest_images(monitor.reference, arguments.alarm_rate)
    if not report.drift and (least is None or report.images < least):
        raise InputError(
            f"{arguments.data}: {report.verdict[-1] if report.images else 'no image was read'}"
        )
    if arguments.json:
        content = {**dataclasses.asdict(report), "failed": failed}
        print(json.dumps({**content, "engine": dataclasses.asdict(info)}, indent=2))
    else:
        _print(report)
    if failed:
        complain(f"{failed} of {report.images + failed} could not be read, see above")
    return int(report.drift or failed > 0)


def _items(data: str, engine: Engine, sampling: Sampling) -> Iterator[SourceImage | Unreadable]:
    path = Path(data)
    if path.suffix == ".npz":
        images = load_npz(path, engine.preprocess)
        for index in images.indices:
            yield SourceImage(data, index, images.read(index))
    else:
        yield from read_each(data, engine.preprocess, sampling)


def _print(report: DriftReport) -> None:
    print_table(f"{report.images} images", _COLUMNS, [_cells(row) for row in report.statistics])
    print(report)


def _cells(row: StatisticReport) -> tuple[str, ...]:
    of_class = is_class(row.name)
    shown: list[Any] = []
    for summary in (row.reference, row.now):
        if of_class:
            shown.append(f"{row.subject!r}: {100 * summary.median:.1f} %")
        else:
            shown.append(f"{summary.median:.4g} ({summary.low:.4g} to {summary.high:.4g})")
    return (
        row.name,
        *shown,
        f"{row.shift:+.2f}",
        "1" if row.probability >= 1 else f"{row.probability:.1g}",
        "drift" if row.drifted else "",
    )
