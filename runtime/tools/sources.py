"""Pictures from wherever a user points: files, folders, videos, cameras."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..preprocess import Preprocess
from .images import EXTENSIONS
from .video import VIDEO_EXTENSIONS, read_video, source_name

if TYPE_CHECKING:
    from ..engine import Engine

_log = logging.getLogger("vit_edge.runtime")


@dataclass(frozen=True)
class Picture:
    """A picture, ready for the engine.

    Attributes:
        source: Its file, or the camera.
        frame: Its place in a video, from 0; None for a picture file.
        pixels: uint8 `[height, width, channels]`, as the engine takes them.
    """

    source: str
    frame: int | None
    pixels: NDArray[np.uint8]

    @property
    def name(self) -> str:
        return self.source if self.frame is None else f"{self.source}, frame {self.frame}"


@dataclass(frozen=True)
class Sampling:
    """Selection of a video's or a camera's frames: each `every`-th, the first one included, and at
    most `frames`; None is all.
    """

    every: int = 1
    frames: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("every", self.every), ("frames", self.frames)):
            if number is not None and not 1 <= number <= sys.maxsize:
                raise InputError(f"{name} is {number}, not 1 or more")


ALL = Sampling()


def read_pictures(
    source: str | os.PathLike[str], preprocess: Preprocess, sampling: Sampling = ALL
) -> Iterator[Picture]:
    """Yields the pictures of a source one by one, decoded when they are asked for.

    Args:
        source: A picture file; a folder, whose picture files are taken in order of their names,
            those in its folders too; a video file; or a camera's index, as "0".
        preprocess: What makes them the engine's input.
        sampling: Which frames of a video.

    Raises:
        InputError: if there is none, or one cannot be read.
        BackendError: if Pillow or OpenCV is needed and not installed.
    """
    path = Path(source)
    if path.is_dir():
        for file in find_pictures(path):
            yield Picture(str(file), None, preprocess.read(file))
    elif is_camera(source):
        yield from _read_frames(int(os.fspath(source)), preprocess, sampling)
    elif path.suffix.lower() in VIDEO_EXTENSIONS:
        yield from _read_frames(path, preprocess, sampling)
    else:
        yield Picture(str(path), None, preprocess.read(path))


def _read_frames(
    source: Path | int, preprocess: Preprocess, sampling: Sampling
) -> Iterator[Picture]:
    with closing(read_video(source)) as video:
        chosen = islice(enumerate(video), 0, None, sampling.every)
        for index, frame in islice(chosen, sampling.frames):
            yield Picture(source_name(source), index, preprocess(frame, color="RGB"))


def is_camera(source: str | os.PathLike[str]) -> bool:
    """Tells whether `source` is a camera's index: a number, and no file of that name."""
    name = os.fspath(source)
    return name.isascii() and name.isdigit() and not Path(name).exists()


def find_pictures(folder: Path) -> list[Path]:
    """The picture files in a folder and the folders in it, in order of their names. Hidden ones are
    passed over, and other files too, which is said.

    Raises:
        InputError: if there is none.
    """
    images, others = list[Path](), 0
    for place, folders, files in os.walk(folder):  # follows no link to a folder
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(place, name)
            if path.suffix.lower() in EXTENSIONS:
                images.append(path)
            else:
                others += 1
    if not images:
        raise InputError(f"{folder} holds no images ({', '.join(EXTENSIONS)})")
    if others:
        _log.warning("%s: %d other files are passed over", folder, others)
    return images


def score(
    engine: Engine, pictures: Iterable[Picture]
) -> Iterator[tuple[Picture, NDArray[np.float32]]]:
    """Yields each picture with the engine's outputs `[outputs]`, in order: the next picture is read
    while the engine computes.
    """
    waiting: deque[Picture] = deque()

    def frames() -> Iterator[NDArray[np.uint8]]:
        for picture in pictures:
            waiting.append(picture)
            yield picture.pixels

    for outputs in engine.stream(frames()):
        yield waiting.popleft(), outputs
