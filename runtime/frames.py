"""Checks an application's frames, and cuts them into batches that an engine takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.base import Frames, Session
from .device_array import DeviceArray, take_device_array
from .errors import InputError
from .manifest import EngineSpec


@dataclass(frozen=True)
class PaddedBatch:
    """Frames that fit the engine's profile; the first `count` of them are the caller's."""

    images: Frames
    count: int


def check_frames(frames: Any, spec: EngineSpec) -> Frames:
    """Returns frames as an engine takes them; contiguous ones are not copied.

    Args:
        frames: uint8 `[N, height, width, channels]` with N > 0: a numpy array, an array of another
            library in host memory (DLPack), or one on a GPU (`__cuda_array_interface__`, DLPack).
        spec: What the engine takes.

    Raises:
        InputError: if they are anything else.
    """
    array = _as_array(frames)
    if len(array.shape) != 4 or array.shape[1:] != spec.image_shape or not array.shape[0]:
        shape = ", ".join(map(str, spec.image_shape))
        raise InputError(f"frames have shape {list(array.shape)}, not [N, {shape}] with N > 0")
    return array if isinstance(array, DeviceArray) else np.ascontiguousarray(array)


def _as_array(frames: Any) -> Frames:
    if not isinstance(frames, np.ndarray):
        device = take_device_array(frames)
        if device is not None:
            return device
        frames = _from_dlpack(frames)
    if frames.dtype != np.uint8:
        raise InputError(
            f"frames are {frames.dtype}, not uint8: pass pixels as they come, 0 to 255"
        )
    array: NDArray[np.uint8] = frames
    return array


def _from_dlpack(frames: Any) -> NDArray[Any]:
    if not hasattr(frames, "__dlpack__"):
        raise InputError(
            f"frames are {type(frames).__name__}, not an array: pass uint8 [N, H, W, C]"
        )
    try:
        return np.from_dlpack(frames)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"frames are {type(frames).__name__} that numpy cannot take ({error}): pass a numpy "
            "array"
        ) from None


def cut(frames: Frames, spec: EngineSpec) -> Iterator[PaddedBatch]:
    """Yields parts of the profile's largest batch size; the last is padded to the smallest.

    Raises:
        InputError: if frames lie on a GPU and their last part would need padding.
    """
    smallest, _, largest = spec.batch
    for start in range(0, len(frames), largest):
        if isinstance(frames, DeviceArray):
            part: Frames = frames.part(start, start + largest)
        else:
            part = frames[start : start + largest]
        yield PaddedBatch(_padded(part, smallest), len(part))


def _padded(part: Frames, smallest: int) -> Frames:
    missing = smallest - len(part)
    if missing <= 0:
        return part
    if isinstance(part, DeviceArray):
        raise InputError(
            f"the engine takes at least {smallest} frames, here are {len(part)} on the GPU: fill up"
        )
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])


def run_frames(session: Session, spec: EngineSpec, frames: Frames) -> NDArray[np.float32]:
    """Runs any number of checked frames; returns packed outputs `[N, width]`."""
    if spec.batch[0] <= len(frames) <= spec.batch[2]:
        return session.run(frames)
    return np.concatenate([session.run(part.images)[: part.count] for part in cut(frames, spec)])
