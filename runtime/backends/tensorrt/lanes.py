"""A lane: all that one batch in flight needs, allocated once.

Source: TensorRT Python API (IExecutionContext); CUDA best practices guide, "Asynchronous and
Overlapping Transfers".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device_array import DeviceArray
from ...errors import EngineError, InputError
from ...manifest import EngineSpec
from .. import cuda
from ..base import Frames
from .contexts import Binding, Contexts, ContextSource

_NOTHING = nullcontext()
ALIGNMENT = 256
"""What IExecutionContext::setTensorAddress asks of an address, in bytes."""


class Lane:
    """A stream, its execution contexts, and pinned host and device buffers for the largest batch.

    Holds one batch at a time: `enqueue`, then `collect`. Not thread-safe.

    Args:
        source: Makes its contexts.
        spec: What the engine takes and gives.
        device: The GPU that it is on.
        errors: Where TensorRT's logger puts what it has to say of a failure.

    Raises:
        EngineError: if there is no memory for it, or TensorRT refuses.
    """

    def __init__(
        self, source: ContextSource, spec: EngineSpec, device: int, errors: list[str]
    ) -> None:
        self._spec, self._device, self._source, self._errors = spec, device, source, errors
        self._images: Frames | None = None  # in flight
        self._resources: list[Any] = []
        try:
            with cuda.on_device(device):
                self._allocate(spec.max_batch)
        except BaseException:
            self.close()
            raise

    def _allocate(self, batch: int) -> None:
        self._stream = self._keep(cuda.Stream())
        self._host_in = self._keep(cuda.PinnedArray((batch, *self._spec.image_shape), np.uint8))
        self._host_out = self._keep(cuda.PinnedArray((batch, self._spec.outputs), np.float32))
        self._device_in = self._keep(cuda.DeviceBuffer(self._host_in.array.nbytes))
        self._device_out = self._keep(cuda.DeviceBuffer(self._host_out.array.nbytes))
        self._contexts = self._keep(Contexts(self._source, self._bind))

    def _keep(self, resource: Any) -> Any:
        self._resources.append(resource)
        return resource

    def _bind(self, context: Any, binding: Binding) -> None:
        spec = self._spec
        if not context.set_input_shape(spec.input_name, binding.shape):
            raise EngineError(f"shape {binding.shape} is outside the engine's profile {spec.batch}")
        for name, address in (
            (spec.input_name, binding.address),
            (spec.output_name, self._device_out.address),
        ):
            if not context.set_tensor_address(name, address):
                raise EngineError(f"the address of {name!r} was refused")

    def device_time_ms(self, images: Frames) -> float:
        """Milliseconds that a batch takes on the device, its copies included. Raises as `enqueue`
        and `collect`.
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
        """Copies frames of the host and queues all work on them; returns at once. Frames on the GPU
        are read where they are, and stay unchanged until `collect` returns.

        Args:
            images: uint8 `[n, height, width, channels]`.
            around: Is entered where the device's work is queued.

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
                bound = self._contexts.find(binding)
                with around:
                    bound.queue(self._stream, self._work(binding), self._source)
        except EngineError as error:
            self._settle()
            raise EngineError(f"{error}{self._told()}") from None
        except BaseException:
            self._settle()
            raise

    def _told(self) -> str:
        """What TensorRT itself says."""
        told = "; ".join(self._errors[:3])
        self._errors.clear()
        return f": {' '.join(told.split())[:500]}" if told else ""

    def _place(self, images: Frames) -> Binding:
        """Brings frames to where a context can read them, or says where they are already."""
        if not isinstance(images, DeviceArray):
            np.copyto(self._host_in.array[: len(images)], images)
            return Binding(images.shape, self._device_in.address, from_host=True)
        if not cuda.can_read(images.address, self._device):
            raise InputError(
                f"the frames' memory is not on GPU {self._device}, where the engine runs: move them"
            )
        if images.stream is not None:
            self._stream.wait_for(images.stream)
        if images.address % ALIGNMENT == 0:
            return Binding(images.shape, images.address, from_host=False)
        # A copy on the GPU takes microseconds; refusing would make slices of a batch useless.
        self._stream.copy_on_device(self._device_in, images.address, images.nbytes)
        return Binding(images.shape, self._device_in.address, from_host=False)

    def _work(self, binding: Binding) -> Callable[[Any], None]:
        """One pass of a context on that binding, to be queued or captured."""

        def work(context: Any) -> None:
            count = binding.shape[0]
            if binding.from_host:
                self._stream.copy_to_device(self._device_in, self._host_in.array[:count])
            if not context.execute_async_v3(self._stream.handle):
                raise EngineError("execute_async_v3 failed")
            self._stream.copy_to_host(self._host_out.array[:count], self._device_out)

        return work

    def collect(self) -> NDArray[np.float32]:
        """Waits for the batch in flight: float32 `[n, outputs]`, the caller's own.

        Raises:
            EngineError: if CUDA reports that its work failed.
        """
        try:
            with cuda.on_device(self._device):
                self._stream.synchronize()
            count = 0 if self._images is None else len(self._images)
            scores: NDArray[np.float32] = self._host_out.array[:count].copy()
            return scores
        finally:
            self._images = None

    def _settle(self) -> None:
        """After an error: waits for what was queued before it, which still uses the buffers."""
        with suppress(EngineError):  # the first error is the one to tell
            self.collect()

    def close(self) -> None:
        """Frees all, the contexts first. Nothing of the lane is in flight."""
        with suppress(EngineError), cuda.on_device(self._device):
            self._free()
        self._free()  # after an error that lasts no device can be chosen

    def _free(self) -> None:
        while self._resources:
            self._resources.pop().close()
