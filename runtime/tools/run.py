"""The command `vit-edge run`: pictures, folders, videos and cameras to answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..answers import DEFAULT_TOP
from ..engine import Engine
from ..errors import InputError
from ..manifest import FEATURES
from .display import percent, say
from .sources import Picture, Sampling, is_camera, read_pictures, score

_FIRST_FEATURES = 5


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
        "--every", type=int, default=1, metavar="N", help="take each N-th frame of a video"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="take at most N frames of each video or camera"
    )


def run_run(arguments: argparse.Namespace) -> int:
    """Prints the likeliest classes of each picture, or its features."""
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
        if arguments.json:
            rows = [_row(engine, picture, outputs, k) for picture, outputs in scored]
            print(json.dumps({"rows": rows, "engine": dataclasses.asdict(engine.info)}, indent=2))
            return 0
        info = engine.info
        say(f"{info.precision} on {info.backend} {info.version}: {info.why}")
        for picture, outputs in scored:
            print(f"{picture.name}: {_words(engine, outputs, k)}", flush=True)
    return 0


def _pictures(sources: list[str], engine: Engine, sampling: Sampling) -> Iterator[Picture]:
    for source in sources:
        yield from read_pictures(source, engine.preprocess, sampling)


def _row(engine: Engine, picture: Picture, outputs: NDArray[np.float32], k: int) -> dict[str, Any]:
    """Makes the row that `--json` prints: `top5` is named after K; a video's images have their
    `frame`.
    """
    row: dict[str, Any] = {"image": picture.source}
    if picture.frame is not None:
        row["frame"] = picture.frame
    if engine.output == FEATURES:
        return {**row, "features": outputs.tolist()}
    return {**row, f"top{k}": [(a.label, a.probability) for a in engine.top(outputs, k)]}


def _words(engine: Engine, outputs: NDArray[np.float32], k: int) -> str:
    if engine.output == FEATURES:
        first = ", ".join(f"{value:.4f}" for value in outputs[:_FIRST_FEATURES])
        return f"{len(outputs)} features of norm {np.linalg.norm(outputs):.4f}: {first}, ..."
    return ", ".join(f"{a.label} {percent(a.probability)}" for a in engine.top(outputs, k))
