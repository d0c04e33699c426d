"""Frames from images, by threads that run ahead of the engine.

Threads, not processes: Pillow gives Python's lock back while it decodes and scales, and frames need
not be copied from process to process. `benchmarks/score.py` measures both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...backends.threads import map_ahead
from ...errors import InputError, first_line
from ...preprocess import Preprocess
from .listing import Item


@dataclass(frozen=True)
class Decoded:
    """An image, ready for the engine or not readable.

    Attributes:
        index, path: As of its `Item`.
        frame: uint8 `[height, width, channels]`; None where it could not be read.
        error: Why not.
    """

    index: int
    path: str
    frame: NDArray[np.uint8] | None
    error: str | None = None


def decode_item(item: Item, preprocess: Preprocess) -> Decoded:
    """Decodes an image. Raises BackendError if Pillow is not installed."""
    try:
        if item.content is None:
            raise InputError(f"{item.path} holds no image")
        if isinstance(item.content, bytes):
            frame = preprocess.decode(item.content, item.path)
        else:
            frame = preprocess.read(item.content)
    except InputError as error:
        return Decoded(item.index, item.path, None, _as_utf8(str(error)))
    except OSError as error:  # a name that is too long, a folder that may not be entered
        problem = f"{item.path} cannot be read ({error.strerror or first_line(error)})"
        return Decoded(item.index, item.path, None, problem)
    return Decoded(item.index, item.path, frame)


def decode_ahead(
    items: Iterable[Item], preprocess: Preprocess, workers: int, ahead: int
) -> Iterator[Decoded]:
    """Yields images in order, decoded by `workers` threads: at most `ahead` of them are decoded or
    being decoded before they are asked for, so that memory stays bounded.
    """
    return map_ahead(
        lambda item: decode_item(item, preprocess), items, workers, ahead, "vit-edge-decode"
    )


def _as_utf8(message: str) -> str:
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
