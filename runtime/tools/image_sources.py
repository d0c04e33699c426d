"""Pictures from wherever a user points: files, folders, videos, cameras, addresses."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, InputError
from ..preprocess import Preprocess
from .images import EXTENSIONS
from .video import VIDEO_EXTENSIONS, is_address, read_video, source_name

if TYPE_CHECKING:
    from ..engine import Engine

STANDARD_INPUT = "-"

_log = logging.getLogger("vit_edge.runtime")


@dataclass(frozen=True)
class SourceImage:
    """An image, ready for the engine.

    Attributes:
        source: Its file, or the camera.
        frame: Its place in a video, from 0; None for an image file.
        pixels: uint8 `[height, width, channels]`, as the engine takes them.
    """

    source: str
    frame: int | None
    pixels: NDArray[np.uint8]

    @property
    def name(self) -> str:
        return self.source if self.frame is None else f"{self.source}, frame {self.frame}"


@dataclass(frozen=True)
class Unreadable:
    """An image, or the rest of a video, that could not be read.

    Attributes:
        source: As of a `SourceImage`.
        error: What is wrong, and what to do.
    """

    source: str
    error: InputError


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


def read_images(
    source: str | os.PathLike[str], preprocess: Preprocess, sampling: Sampling = ALL
) -> Iterator[SourceImage]:
    """Yields the images of a source one by one, decoded when they are asked for.

    Args:
        source: An image file; a folder, whose image files are taken in order of their names,
            those in its folders too; a video file; a camera's index, as "0"; the address of a
            stream, as "rtsp://host/path"; or "-", for an image or a video on standard input.
        preprocess: What makes them the engine's input.
        sampling: Which frames of a video.

    Raises:
        InputError: if there is none, or one cannot be read.
        BackendError: if Pillow or OpenCV is needed and not installed.
    """
    for item in read_each(source, preprocess, sampling):
        if isinstance(item, Unreadable):
            raise item.error
        yield item


def read_each(
    source: str | os.PathLike[str], preprocess: Preprocess, sampling: Sampling = ALL
) -> Iterator[SourceImage | Unreadable]:
    """Yields the same, and goes on after what cannot be read.

    Raises:
        BackendError: as `read_images`.
    """
    path, name = Path(source), os.fspath(source)
    try:
        if name == STANDARD_INPUT:
            yield from _read_standard_input(preprocess, sampling)
        elif path.is_dir():
            for file in find_pictures(path):
                yield _read_file(file, preprocess)
        elif is_camera(source):
            yield from _read_frames(int(name), preprocess, sampling)
        elif is_address(name):
            yield from _read_frames(name, preprocess, sampling)
        elif path.suffix.lower() in VIDEO_EXTENSIONS:
            yield from _read_frames(path, preprocess, sampling)
        else:
            yield _read_file(path, preprocess)
    except InputError as error:
        yield Unreadable(source_name(source), error)


def _read_file(path: Path, preprocess: Preprocess) -> SourceImage | Unreadable:
    try:
        return SourceImage(str(path), None, preprocess.read(path))
    except InputError as error:
        return Unreadable(str(path), error)


def _read_frames(
    source: str | Path | int, preprocess: Preprocess, sampling: Sampling
) -> Iterator[SourceImage]:
    with closing(read_video(source)) as video:
        chosen = islice(enumerate(video), 0, None, sampling.every)
        for index, frame in islice(chosen, sampling.frames):
            yield SourceImage(source_name(source), index, preprocess(frame, color="RGB"))


def _read_standard_input(preprocess: Preprocess, sampling: Sampling) -> Iterator[SourceImage]:
    """Yields an image, or a video's frames, whose decoders need a file."""
    with tempfile.NamedTemporaryFile(prefix="vit-edge-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        path = Path(file.name)
        item = _read_file(path, preprocess)
        if isinstance(item, SourceImage):
            yield SourceImage(STANDARD_INPUT, None, item.pixels)
            return
        try:
            for image in _read_frames(path, preprocess, sampling):
                yield SourceImage(STANDARD_INPUT, image.frame, image.pixels)
        except (InputError, BackendError):
            size = path.stat().st_size
            raise InputError(
                f"standard input ({size} bytes) is neither a readable image nor a video"
            ) from None


def is_camera(source: str | os.PathLike[str]) -> bool:
    """Tells whether `source` is a camera's index: a number, and no file of that name."""
    name = os.fspath(source)
    return name.isascii() and name.isdigit() and not Path(name).exists()


def walk(folder: Path, hidden: str = ".") -> Iterator[Path]:
    """Yields the files in a folder and the folders in it, in order of their names; those whose name
    begins with one of `hidden` are passed over. Links to folders are followed.

    Raises:
        InputError: if a folder cannot be read.
    """
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(
            name for name in folders if name[0] not in hidden and not _leads_back(place, name)
        )
        yield from (Path(place, name) for name in sorted(files) if name[0] not in hidden)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}): its images would be missing"
    ) from None


def _leads_back(place: str, name: str) -> bool:
    """True for a link to a folder that it lies in, whose files come anyway."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path))


def find_pictures(folder: Path) -> list[Path]:
    """The image files that `walk` finds. Other files are passed over and counted in a log line.

    Raises:
        InputError: if there is none, or a folder cannot be read.
    """
    images, others = list[Path](), 0
    for path in walk(folder):
        if path.suffix.lower() in EXTENSIONS:
            images.append(path)
        else:
            others += 1
    if not images:
        raise InputError(f"{folder} holds no images ({', '.join(EXTENSIONS)})")
    if others:
        _log.warning("%s: %d other files are passed over", folder, others)
    return images


def score(engine: Engine, images: Iterable[SourceImage]) -> Iterator[tuple[SourceImage, Any]]:
    """Yields each image with the engine's outputs of it, in order: the next image is read while
    the engine computes.
    """
    for item, outputs in score_each(engine, images):
        if isinstance(item, SourceImage):
            yield item, outputs


def score_each(
    engine: Engine, items: Iterable[SourceImage | Unreadable]
) -> Iterator[tuple[SourceImage | Unreadable, Any]]:
    """Yields the same, and what could not be read, with None, in its place."""
    waiting: deque[SourceImage | Unreadable] = deque()

    def frames() -> Iterator[NDArray[np.uint8]]:
        for item in items:
            waiting.append(item)
            if isinstance(item, SourceImage):
                yield item.pixels

    for outputs in engine.stream(frames()):
        while isinstance(item := waiting.popleft(), Unreadable):
            yield item, None
        yield item, outputs
    for item in waiting:
        yield item, None
