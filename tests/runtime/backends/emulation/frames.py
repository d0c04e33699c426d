"""Frames that another library wrote, or is still writing, on the emulated GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .machine import LEGACY, Machine, Stream, Work


class GpuFrames:
    """An array that offers `__cuda_array_interface__`.

    Args:
        stream: Where its contents are still to be written when it is handed out; None: they are
            there.
        offset: Of the first byte from the start of its memory.
    """

    def __init__(
        self,
        machine: Machine,
        frames: np.ndarray,
        stream: int | None = None,
        offset: int = 0,
        kind: str = "device",
        device: int = 0,
    ) -> None:
        self.machine, self.shape, self.stream = machine, frames.shape, stream
        self.block = machine.allocate(kind, frames.nbytes + offset, device)
        self.address = self.block.address + offset
        self.version = 3
        content = frames.copy()

        def write() -> None:
            ctypes.memmove(self.block.address + offset, content.ctypes.data, content.nbytes)

        if stream is None:
            write()
        else:
            machine.queue(stream, Work("producer", write))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self.address, True),
            "strides": None,
            "version": self.version,
        }
        return found if self.version < 3 else {**found, "stream": self.stream}

    def free(self) -> None:
        self.machine.free(self.block.address)


def producer_stream(machine: Machine) -> int:
    return machine.keep("stream", Stream(0))


__all__ = ["LEGACY", "GpuFrames", "producer_stream"]
