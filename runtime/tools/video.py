"""Frames of video files, cameras and streams on the network, by OpenCV."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, InputError, first_line, install_command

VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

_COUNT_SLACK = 2
"""A container without an index tells its number of frames from duration and rate."""

_MAX_CAMERA = 999

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LIVE = ("rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "udp")
"""Streams that have no end of their own."""
_TIMEOUT_MS = 10_000

_log = logging.getLogger("vit_edge.runtime")


def read_video(source: str | os.PathLike[str] | int) -> Generator[NDArray[np.uint8], None, None]:
    """Yields the frames of a video file, or of a camera or a stream for as long as it gives some.

    One frame is decoded at a time, turned as the file's rotation says. The file or camera is
    released at the end, or when the generator is closed. A file that ends early is warned of in the
    log, with counts.

    Args:
        source: A file's path; a camera's index, 0 is the first; or an address that OpenCV's FFmpeg
            reads, as "rtsp://user:password@host/path", which waits 10 s for the other side.

    Yields:
        uint8 `[height, width, 3]`, RGB, each in memory of its own.

    Raises:
        InputError: if there is no such file, camera or stream, no frame can be decoded, or a camera
            or a live stream stops.
        BackendError: if OpenCV is not installed.
    """
    cv2, name = _load_library(), source_name(source)
    capture = _open(cv2, source, name)
    count = 0
    try:
        while True:
            good, frame = capture.read()
            if not good:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    except cv2.error as error:
        raise InputError(f"OpenCV fails at frame {count} of {name}: {first_line(error)}") from None
    finally:
        capture.release()
    if isinstance(source, int) or (is_address(source) and _scheme(source) in _LIVE):
        raise InputError(f"{name} stopped after {count} frames: is it still connected?")
    if not count:
        raise InputError(f"{name} holds no frame that OpenCV can decode: is it a whole video file?")
    if count < promised - _COUNT_SLACK:
        _log.warning("%s is damaged or cut short: %d of %.0f frames read", name, count, promised)


def source_name(source: str | os.PathLike[str] | int) -> str:
    """Returns a video's source in words; passwords in addresses are left out."""
    if isinstance(source, int):
        return f"camera {source}"
    name = os.fspath(source)
    return re.sub(r"(://)[^/@]*@", r"\1", name) if is_address(name) else name


def is_address(source: str | os.PathLike[str]) -> bool:
    """Tells whether `source` is an address, as "rtsp://host/path"."""
    return bool(_ADDRESS.match(os.fspath(source)))


def _scheme(address: str | os.PathLike[str]) -> str:
    return os.fspath(address).partition("://")[0].lower()


def _load_library() -> Any:
    try:
        import cv2
    except ImportError:
        raise BackendError(f"reading video needs OpenCV: {install_command('video')}") from None
    return cv2


def _open(cv2: Any, source: str | os.PathLike[str] | int, name: str) -> Any:
    """An opened `cv2.VideoCapture`."""
    if isinstance(source, int):
        if not 0 <= source <= _MAX_CAMERA:
            raise InputError(f"there is no {name}: the first is 0")
        capture = cv2.VideoCapture(source)
        remedy = "is it connected, free, and may this user read it?"
    elif is_address(source):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
        capture = cv2.VideoCapture(os.fspath(source), cv2.CAP_FFMPEG, limits)
        remedy = "is the address right, and does the other side answer?"
    else:
        # OpenCV would take any other string for an address, a pipeline or a numbered sequence.
        if not Path(source).is_file():
            raise InputError(f"there is no video file at {name}")
        capture = cv2.VideoCapture(os.path.abspath(source))
        remedy = "is it a whole video file, of a kind that this OpenCV decodes?"
    if not capture.isOpened():
        capture.release()
        raise InputError(f"OpenCV cannot open {name}: {remedy}")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # off by default since OpenCV 4.11
    return capture
