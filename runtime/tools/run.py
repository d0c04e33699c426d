"""The command `vit-edge run`: pictures, folders, videos and cameras to answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..answers import DEFAULT_TOP
from ..engine import Engine
from ..errors import InputError
from .display import say
from .show import Shown, draw_maps, show_outputs
from .sources import Picture, Sampling, is_camera, read_pictures, score


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="PATH",
        help="a picture, a folder of pictures, a video, or a camera's index, as 0",
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
    """Prints each picture's outputs: classes, labels, numbers, and where its maps are drawn."""
    sampling, k = Sampling(arguments.every, arguments.frames), arguments.top
    if k < 1:
        raise InputError(f"--top {k}: ask for at least one class")
    cameras = [source for source in arguments.sources if is_camera(source)]
    if arguments.json and cameras and sampling.frames is None:
        raise InputError(
            f"--json prints at the end, and camera {cameras[0]} has none: add --frames"
        )
    with Engine.load(
        arguments.bundle, arguments.precision, arguments.backend, arguments.public_key
    ) as engine:
        scored = score(engine, _pictures(arguments.sources, engine, sampling))

        def describe(picture: Picture, outputs: Any) -> Shown:
            maps: dict[str, Path] = {}
            if arguments.maps is not None:
                maps = draw_maps(engine, outputs, _stem(picture), arguments.maps)
            return show_outputs(engine, outputs, k, maps)

        if arguments.json:
            rows = [_row(picture, describe(picture, outputs)) for picture, outputs in scored]
            print(json.dumps({"rows": rows, "engine": dataclasses.asdict(engine.info)}, indent=2))
            return 0
        info = engine.info
        say(f"{info.precision} on {info.backend} {info.version}: {info.why}")
        for picture, outputs in scored:
            print(f"{picture.name}: {describe(picture, outputs).words}", flush=True)
    return 0


def _stem(picture: Picture) -> str:
    """Returns what the files of its maps are named after."""
    name = Path(picture.source).with_suffix("").as_posix().lstrip("./")
    return name if picture.frame is None else f"{name}.{picture.frame:06}"


def _pictures(sources: list[str], engine: Engine, sampling: Sampling) -> Iterator[Picture]:
    for source in sources:
        yield from read_pictures(source, engine.preprocess, sampling)


def _row(picture: Picture, shown: Shown) -> dict[str, Any]:
    """Makes the row that `--json` prints: `top5` is named after K; a video's images have their
    `frame`.
    """
    row: dict[str, Any] = {"image": picture.source}
    if picture.frame is not None:
        row["frame"] = picture.frame
    return {**row, **shown.fields}
