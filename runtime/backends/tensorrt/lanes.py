"""Lanes: all that a batch in flight needs, allocated once, and the pool that lends them.

Source: TensorRT Python API (IExecutionContext); CUDA best practices guide, "Asynchronous and
Overlapping Transfers".
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress

import numpy as np
from numpy.typing import NDArray

from ...device_array import DeviceArray
from ...errors import ClosedError, EngineError, InputError, engine_error
from ...manifest import EngineSpec
from ...outputs import pack
from .. import cuda
from ..base import Frames
from .contexts import Binding, Buffers, ContextFactory, Contexts

_log = logging.getLogger("vit_edge.tensorrt")

LANES = 2
"""One lane computes while the next one's frames are copied. More would share the same GPU, and each
costs the engine's working memory once more."""
MAX_LANES = 4
"""One more lane for each of the second and the third stream that run at the same time."""
ALIGNMENT = 256
"""Alignment in bytes that IExecutionContext::setTensorAddress requires of an address."""
_NOTHING = nullcontext()


class Lane:
    """CUDA stream with execution contexts and buffers for the largest batch.

    Holds one batch at a time: `enqueue`, then `collect`. Not thread-safe.

    Args:
        factory: Creates its contexts.
        spec: Input and output of the engine.
        device: The GPU that it is on.
        errors: List to which TensorRT's logger adds the details of a failure.

    Raises:
        EngineError: if there is no memory for it, or TensorRT refuses.
    """

    def __init__(
        self, factory: ContextFactory, spec: EngineSpec, device: int, errors: list[str]
    ) -> None:
        self._spec, self._device, self._errors = spec, device, errors
        self._images: Frames | None = None  # in flight
        self._resources: list[cuda.Stream | Buffers | Contexts] = []
        try:
            with cuda.on_device(device):
                self._stream = cuda.Stream()
                self._resources.append(self._stream)
                self._buffers = Buffers(spec)
                self._resources.append(self._buffers)
                self._contexts = Contexts(factory, spec, self._buffers)
                self._resources.append(self._contexts)
        except BaseException:
            self.close()
            raise

    def run(self, images: Frames) -> NDArray[np.float32]:
        """Runs a batch. Raises as `enqueue` and `collect`."""
        self.enqueue(images)
        return self.collect()

    def device_time_ms(self, images: Frames) -> float:
        """Runs a batch; returns the milliseconds that it takes on the device, with its copies.
        Raises as `enqueue` and `collect`.
        """
        timer = cuda.Timer(self._stream)
        try:
            self.enqueue(images, timer)
            self.collect()
            with cuda.on_device(self._device):
                return timer.milliseconds()
        finally:
            timer.close()

    def enqueue(self, images: Frames, around: AbstractContextManager[None] = _NOTHING) -> None:
        """Copies frames in host memory, queues all work on them, and returns at once. Frames on the
        GPU are read in place, and must not change before `collect` returns.

        Args:
            images: uint8 `[n, height, width, channels]`.
            around: Entered while the work is queued.

        Raises:
            InputError: if frames on a GPU are not on this one.
            EngineError: if CUDA or TensorRT fails; the lane can be used again.
        """
        if len(images) > self._spec.max_batch:
            raise EngineError(
                f"{len(images)} frames are outside the engine's profile {self._spec.batch}"
            )
        self._images = images
        try:
            with cuda.on_device(self._device):
                binding = self._place(images)
                with around:
                    self._contexts.enqueue(binding, self._stream)
        except EngineError as error:
            self.settle()
            raise engine_error(f"{error}{self._drain_log_errors()}", error) from None
        except BaseException:
            self.settle()
            raise

    def _drain_log_errors(self) -> str:
        """Returns what TensorRT has logged of a failure, and forgets it."""
        text = "; ".join(self._errors[:3])
        self._errors.clear()
        return f": {' '.join(text.split())[:500]}" if text else ""

    def _place(self, images: Frames) -> Binding:
        """Copies frames to where a context can read them, unless they are there already."""
        buffers = self._buffers
        if not isinstance(images, DeviceArray):
            np.copyto(buffers.host_in.array[: len(images)], images)
            return Binding(images.shape, buffers.device_in.address, from_host=True)
        if not cuda.can_read(images.address, self._device):
            raise InputError(
                f"the frames' memory is not on GPU {self._device}, where the engine runs: move them"
            )
        if images.stream is not None:
            self._stream.wait_for(images.stream)
        if images.address % ALIGNMENT == 0:
            return Binding(images.shape, images.address, from_host=False)
        # A copy on the GPU takes microseconds; refusing would make slices of a batch useless.
        self._stream.copy_on_device(buffers.device_in, images.address, images.nbytes)
        return Binding(images.shape, buffers.device_in.address, from_host=False)

    def collect(self) -> NDArray[np.float32]:
        """Waits for the batch in flight; returns float32 `[n, width]`, which the caller owns.

        Raises:
            EngineError: if CUDA reports that its work failed.
        """
        try:
            with cuda.on_device(self._device):
                self._stream.synchronize()
            count = 0 if self._images is None else len(self._images)
            outputs = [out.array[:count] for out in self._buffers.host_out]
            return outputs[0].copy() if len(outputs) == 1 else pack(outputs)
        finally:
            self._images = None

    def settle(self) -> None:
        """Waits for work in flight, which still uses the buffers, and discards its outputs."""
        if self._images is not None:
            with suppress(EngineError):
                self.collect()

    def close(self) -> None:
        """Frees everything, the contexts first. Nothing of the lane may be in flight."""
        with suppress(EngineError), cuda.on_device(self._device):
            self._free()
        self._free()  # after a permanent error no device can be chosen

    def _free(self) -> None:
        while self._resources:
            self._resources.pop().close()


class LanePool:
    """Lends lanes: the first exists from the start, others are created when all are busy, up to
    `LANES` for calls and `MAX_LANES` for streams.

    A lane is taken for the time of a call, or kept by a stream from batch to batch. Streams always
    leave one lane, so a thread that waits for a lane waits for calls, which end by themselves, and
    never for the reader of a stream.

    Args:
        factory, spec, device, errors: As for `Lane`.

    Raises:
        EngineError: if the first lane cannot be created.
    """

    def __init__(
        self, factory: ContextFactory, spec: EngineSpec, device: int, errors: list[str]
    ) -> None:
        self._factory: ContextFactory | None = factory  # None once the pool is closed
        self._spec, self._device, self._errors = spec, device, errors
        self._idle = [Lane(factory, spec, device, errors)]
        self._count, self._kept, self._limit = 1, 0, MAX_LANES
        self._changed, self._growing = threading.Condition(), threading.Lock()

    def take(self) -> Lane:
        """Returns a lane, as soon as one is free. Raises ClosedError if the pool is closed."""
        if not self._idle:
            self._grow(LANES)
        with self._changed:
            while not self._idle and self._factory is not None:
                self._changed.wait()
            return self._pop()

    def keep(self) -> Lane | None:
        """Returns a lane for a stream, as soon as one is free; None if no lane can be spared.
        Raises ClosedError if the pool is closed.
        """
        if not self._can_spare():
            self._grow(MAX_LANES)
        with self._changed:
            while not self._idle and self._factory is not None and self._can_spare():
                self._changed.wait()
            if self._factory is not None and not self._can_spare():
                return None
            lane = self._pop()
            self._kept += 1
            self._changed.notify_all()  # other streams no longer need to wait for one to keep
            return lane

    def _can_spare(self) -> bool:
        return self._count - self._kept > 1

    def _pop(self) -> Lane:
        if self._factory is None:
            raise ClosedError()
        return self._idle.pop()

    def _grow(self, limit: int) -> None:
        """Makes one more lane, if there are fewer than `limit` and there is memory for it."""
        with self._growing:
            if self._factory is None or self._count >= min(limit, self._limit):
                return
            try:
                lane = Lane(self._factory, self._spec, self._device, self._errors)
            except EngineError as error:
                self._limit = self._count
                _log.warning("going on with %d lane(s): %s", self._count, str(error))
                return
            with self._changed:
                self._count += 1
                self._add(lane)

    def give_back(self, lane: Lane) -> None:
        """Returns a lane that was taken."""
        with self._changed:
            self._add(lane)

    def release(self, lane: Lane) -> None:
        """Returns a lane that was kept."""
        if sys.is_finalizing():  # a thread that no longer exists may hold the lock
            return
        with self._changed:
            self._kept -= 1
            self._add(lane)

    def _add(self, lane: Lane) -> None:
        if self._factory is not None:
            self._idle.append(lane)
            self._changed.notify()
        else:
            self._free(lane)

    def _free(self, lane: Lane) -> None:
        self._count -= 1
        lane.close()
        self._changed.notify_all()

    def close(self) -> None:
        """Refuses new calls, waits for running ones, and frees the lanes. A lane that a stream
        keeps is freed at its release. Closing twice is fine.
        """
        with self._growing, self._changed:
            self._factory = None
            self._changed.notify_all()
            while self._idle:
                self._free(self._idle.pop())
            while self._count > self._kept:
                self._changed.wait()
