"""The command `vit-edge run`: images, folders, videos, cameras and streams to answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..answers import DEFAULT_TOP
from ..engine import Engine, EngineInfo
from ..errors import InputError
from .display import complain, detail, say
from .image_sources import Sampling, SourceImage, Unreadable, read_each, score_each
from .measure.machine import describe_machine
from .show import Shown, draw_maps, show_outputs


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="PATH",
        help="an image, a folder of images, a video, a camera's index, as 0, an address, as "
        "rtsp://HOST/PATH, or - for standard input",
    )
    parser.add_argument("--precision", metavar="P")
    parser.add_argument("--backend", metavar="B")
    parser.add_argument(
        "--top", type=int, default=DEFAULT_TOP, metavar="K", help=f"default: {DEFAULT_TOP} classes"
    )
    parser.add_argument(
        "--maps", type=Path, metavar="DIR", help="write maps, as of depth or segments, as pictures"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take each N-th frame of a video"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="take at most N frames of each video or camera"
    )


def run_run(arguments: argparse.Namespace) -> int:
    """Prints each image's outputs as they come: classes, labels, numbers, and where its maps are
    drawn. Goes on after what cannot be read: the exit status is 1 then, and 2 if nothing could be.
    """
    sampling, k = Sampling(arguments.every, arguments.frames), arguments.top
    if k < 1:
        raise InputError(f"--top {k}: ask for at least one class")
    count, failed = 0, 0
    with Engine.load(
        arguments.bundle,
        arguments.precision,
        arguments.backend,
        arguments.public_key,
        arguments.threads,
    ) as engine:
        info = engine.info
        if not arguments.json:
            _say_engine(info)
        for item, outputs in score_each(engine, _items(arguments.sources, engine, sampling)):
            if isinstance(item, Unreadable):
                failed += 1
                _print_failure(item, arguments.json)
                continue
            count += 1
            maps: dict[str, Path] = {}
            if arguments.maps is not None:
                maps = draw_maps(engine, outputs, _stem(item), arguments.maps)
            shown = show_outputs(engine, outputs, k, maps)
            line = (
                json.dumps(_row(item, shown)) if arguments.json else f"{item.name}: {shown.words}"
            )
            print(line, flush=True)
    if arguments.json:
        end = {"images": count, "failed": failed, "engine": dataclasses.asdict(info)}
        print(json.dumps(end))
    if failed and count:
        complain(f"{failed} of {count + failed} could not be read, see above")
    return 0 if not failed else 1 if count else InputError.exit_code


def _say_engine(info: EngineInfo) -> None:
    """Prints in one line what runs and why; with `--verbose` the machine and the other backends."""
    say(f"{info}: {info.why}")
    for line in describe_machine([(info.backend, info.version)]).details():
        detail(line)
    for name, reason in info.not_run.items():
        detail(f"{name} cannot run here: {reason}")


def _stem(image: SourceImage) -> str:
    """Returns what the files of its maps are named after."""
    name = Path(image.source).with_suffix("").as_posix().lstrip("./")
    return name if image.frame is None else f"{name}.{image.frame:06}"


def _items(
    sources: list[str], engine: Engine, sampling: Sampling
) -> Iterator[SourceImage | Unreadable]:
    for source in sources:
        yield from read_each(source, engine.preprocess, sampling)


def _print_failure(failure: Unreadable, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": failure.source, "error": str(failure.error)}), flush=True)
    complain(f"vit-edge: {failure.error}")


def _row(image: SourceImage, shown: Shown) -> dict[str, Any]:
    """Makes the row that `--json` prints: `top5` is named after K; a video's images have their
    `frame`.
    """
    row: dict[str, Any] = {"image": image.source}
    if image.frame is not None:
        row["frame"] = image.frame
    return {**row, **shown.fields}
