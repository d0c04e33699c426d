"""Stands for `cuda.bindings.runtime`: every function answers (status, values...)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from ..api import MODULE, Api
from .genuine import checked_call, enumeration
from .machine import GARBAGE, Capture, Executable, Machine, Stream, Work

DEVICES = 2


class CudaError(Exception):
    """Answered as a status."""


class EmulatedCuda:
    """The module, as the recording of a release shows it."""

    def __init__(self, machine: Machine, api: Api) -> None:
        self._machine, self._api = machine, api
        self._functions = Functions(machine, self)

    def __getattr__(self, name: str) -> Any:
        if not self._api.has(MODULE, name):
            raise AttributeError(f"cuda-bindings {self._api.version} has no {name}")
        if self._api.has(name):
            found = enumeration(self._api, name)
            setattr(self, name, found)
            return found
        signatures = self._api.signatures(MODULE, name)
        if not signatures:
            return self._api.values[name]
        function = getattr(self._functions, name, None)
        if function is None:
            raise NotImplementedError(f"not emulated: {name}")
        return checked_call(name, signatures, self._answering(name, function))

    @cached_property
    def _statuses(self) -> Any:
        return enumeration(self._api, "cudaError_t")

    def _answering(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            machine = self._machine
            with machine.lock:
                try:
                    if machine.broken is not None:
                        raise CudaError(machine.broken)
                    value = function(*arguments)
                    if machine.broken is not None:
                        raise CudaError(machine.broken)
                except CudaError as error:
                    return self._statuses[str(error)], None
                except KeyError:
                    machine.note(f"{name}: no such handle or address {arguments}")
                    return self._statuses["cudaErrorInvalidResourceHandle"], None
            return (self._statuses(0),) if value is None else (self._statuses(0), value)

        return call


class Functions:
    """What the emulated functions do. Names are CUDA's."""

    # ruff: noqa: N802

    def __init__(self, machine: Machine, cuda: EmulatedCuda) -> None:
        self.machine, self.cuda = machine, cuda
        self.driver_version = 13050

    def cudaGetDeviceCount(self) -> int:
        if self.driver_version < 13000:
            raise CudaError("cudaErrorInsufficientDriver")
        return DEVICES

    def cudaDriverGetVersion(self) -> int:
        return self.driver_version

    def cudaRuntimeGetVersion(self) -> int:
        return 13050

    def cudaGetDevice(self) -> int:
        return getattr(self.machine.current, "device", 0)

    def cudaSetDevice(self, device: int) -> None:
        if not 0 <= device < DEVICES:
            raise CudaError("cudaErrorInvalidDevice")
        self.machine.current.device = device

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=b"Emulated GPU", major=8, minor=9)

    def cudaPointerGetAttributes(self, address: int) -> Any:
        kinds = self.cuda.cudaMemoryType
        block = self.machine.find(address)
        if block is None:
            return SimpleNamespace(type=kinds.cudaMemoryTypeUnregistered, device=-2)
        names = {"device": "Device", "managed": "Managed", "pinned": "Host"}
        return SimpleNamespace(
            type=kinds[f"cudaMemoryType{names[block.kind]}"], device=block.device
        )

    def _allocated(self) -> None:
        if self.machine.invalidate_captures():
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        if not self.machine.may_allocate():
            raise CudaError("cudaErrorMemoryAllocation")

    def cudaMalloc(self, size: int) -> int:
        self._allocated()
        return self.machine.allocate("device", size, self.cudaGetDevice()).address

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        self._allocated()
        return self.machine.allocate("pinned", size, self.cudaGetDevice()).address

    def _free(self, address: int, kind: str) -> None:
        if self.machine.invalidate_captures():
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        if self.machine.blocks[address].kind != kind:
            raise CudaError("cudaErrorInvalidValue")
        self.machine.free(address)

    def cudaFree(self, address: int) -> None:
        self._free(address, "device")

    def cudaFreeHost(self, address: int) -> None:
        self._free(address, "pinned")

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        self._allocated()
        if flags != self.cuda.cudaStreamNonBlocking:
            self.machine.note("a stream that waits for the default stream")
        return self.machine.keep("stream", Stream(self.cudaGetDevice()))

    def cudaStreamDestroy(self, handle: int) -> None:
        stream = self.machine.resource("stream", handle)
        if stream.queue or stream.capture is not None:
            self.machine.note("a stream was destroyed with work in it")
        del self.machine.resources[handle]

    def cudaStreamSynchronize(self, handle: int) -> None:
        stream = self.machine.stream(handle)
        if stream.capture is not None:
            stream.capture.valid = False
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        self.machine.trace.append("synchronize")
        self.machine.drain(stream, stream.queued)

    def cudaEventCreateWithFlags(self, flags: int) -> int:
        self._allocated()
        return self.machine.keep("event", {})

    def cudaEventDestroy(self, handle: int) -> None:
        self.machine.resource("event", handle)
        del self.machine.resources[handle]

    def cudaEventRecord(self, handle: int, stream: int) -> None:
        event, recorded = self.machine.resource("event", handle), self.machine.stream(stream)
        event["stream"], event["position"] = recorded, recorded.queued

    def cudaStreamWaitEvent(self, handle: int, event: int, flags: int) -> None:
        recorded = dict(self.machine.resource("event", event))  # as it is now
        if self.machine.stream(handle).capture is not None:
            self.machine.stream(handle).capture.valid = False
            raise CudaError("cudaErrorStreamCaptureIsolation")
        if recorded:
            work = lambda: self.machine.drain(recorded["stream"], recorded["position"])  # noqa: E731
            self.machine.queue(handle, Work("wait", work))

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, handle: int) -> None:
        if self.machine.stream(handle).device != self.cudaGetDevice():
            raise CudaError("cudaErrorInvalidResourceHandle")
        host, device = ("pinned",), ("device", "managed")
        sides = {
            "cudaMemcpyHostToDevice": (device, host),
            "cudaMemcpyDeviceToHost": (host, device),
            "cudaMemcpyDeviceToDevice": (device, device),
        }[kind.name]

        def good() -> bool:
            return self.machine.require(target, size, sides[0], kind.name) and (
                self.machine.require(source, size, sides[1], kind.name)
            )

        def queued() -> None:
            if good() and sides[0] == host:
                ctypes.memset(target, GARBAGE, size)

        def run() -> None:
            if good():
                ctypes.memmove(target, source, size)

        self.machine.queue(handle, Work(kind.name, run, queued))

    def cudaStreamBeginCapture(self, handle: int, mode: Any) -> None:
        stream = self.machine.stream(handle)
        if stream.capture is not None:
            raise CudaError("cudaErrorIllegalState")
        stream.capture = Capture(threading.get_ident(), mode.name == "cudaStreamCaptureModeGlobal")

    def cudaStreamEndCapture(self, handle: int) -> int:
        stream = self.machine.stream(handle)
        capture, stream.capture = stream.capture, None
        if capture is None:
            raise CudaError("cudaErrorIllegalState")
        if not capture.valid:
            raise CudaError("cudaErrorStreamCaptureInvalidated")
        self.machine.trace.append("capture")
        return self.machine.keep("graph", capture.work)

    def cudaGraphInstantiate(self, handle: int, flags: int) -> int:
        work = self.machine.resource("graph", handle)
        self._allocated()
        return self.machine.keep("executable graph", Executable(work))

    def cudaGraphDestroy(self, handle: int) -> None:
        self.machine.resource("graph", handle)
        del self.machine.resources[handle]

    def cudaGraphLaunch(self, handle: int, stream: int) -> None:
        executable = self.machine.resource("executable graph", handle)
        self.machine.trace.append("launch")
        executable.launched += 1
        for work in executable.work:
            self.machine.queue(stream, work)

        def finish() -> None:
            executable.finished += 1

        self.machine.queue(stream, Work("end of graph", finish))

    def cudaGraphExecDestroy(self, handle: int) -> None:
        executable = self.machine.resource("executable graph", handle)
        if executable.finished < executable.launched and self.machine.broken is None:
            self.machine.note("a graph was destroyed while it ran")
        del self.machine.resources[handle]
