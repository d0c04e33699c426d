"""That the emulated GPU notices what it is there to notice."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from .emulation import EmulatedGpu
from .emulation.machine import FREED, FRESH, GARBAGE


@pytest.fixture
def gpu() -> EmulatedGpu:
    return EmulatedGpu()


@pytest.fixture
def runtime(gpu: EmulatedGpu) -> Any:
    return gpu.cuda()


def call(runtime: Any, name: str, *arguments: Any) -> Any:
    status, *values = getattr(runtime, name)(*arguments)
    assert status == 0, status.name
    return values[0] if values else None


def bytes_at(address: int, size: int = 4) -> bytes:
    return ctypes.string_at(address, size)


def test_a_copy_is_done_when_it_is_waited_for(gpu: EmulatedGpu, runtime: Any) -> None:
    stream = call(runtime, "cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
    host, device = call(runtime, "cudaHostAlloc", 4, 0), call(runtime, "cudaMalloc", 4)
    assert bytes_at(device) == bytes([FRESH]) * 4
    ctypes.memset(host, 7, 4)
    down, up = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, "cudaMemcpyDeviceToHost"
    call(runtime, "cudaMemcpyAsync", device, host, 4, down, stream)
    call(runtime, "cudaMemcpyAsync", host, device, 4, runtime.cudaMemcpyKind[up], stream)
    assert bytes_at(host) == bytes([GARBAGE]) * 4  # the answer is not there yet
    assert bytes_at(device) == bytes([FRESH]) * 4
    call(runtime, "cudaStreamSynchronize", stream)
    assert bytes_at(device) == bytes([GARBAGE]) * 4  # what lay there when the copy was done
    assert gpu.violations == []


def test_streams_wait_for_each_other_only_by_events(gpu: EmulatedGpu, runtime: Any) -> None:
    first, second = (
        call(runtime, "cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking) for _ in "12"
    )
    event = call(runtime, "cudaEventCreateWithFlags", runtime.cudaEventDisableTiming)
    host, device = call(runtime, "cudaHostAlloc", 4, 0), call(runtime, "cudaMalloc", 4)
    ctypes.memset(host, 7, 4)
    down = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    call(runtime, "cudaMemcpyAsync", device, host, 4, down, first)
    call(runtime, "cudaStreamSynchronize", second)
    assert bytes_at(device) == bytes([FRESH]) * 4
    call(runtime, "cudaEventRecord", event, first)
    call(runtime, "cudaStreamWaitEvent", second, event, 0)
    call(runtime, "cudaStreamSynchronize", second)
    assert bytes_at(device) == bytes([7]) * 4


@pytest.mark.parametrize(
    ("what", "violation"),
    [
        ("freed", "freed memory where device or managed memory is needed"),
        ("overrun", "no memory where device or managed memory is needed"),
        ("pageable", "no memory where pinned memory is needed"),
        ("wrong side", "pinned memory where device or managed memory is needed"),
    ],
)
def test_bad_copies_are_noted(gpu: EmulatedGpu, runtime: Any, what: str, violation: str) -> None:
    stream = call(runtime, "cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
    host, device = call(runtime, "cudaHostAlloc", 8, 0), call(runtime, "cudaMalloc", 4)
    pageable = np.zeros(8, np.uint8)
    source, target, size = host, device, 4
    if what == "pageable":
        source = pageable.ctypes.data
    if what == "wrong side":
        target = host
    if what == "overrun":
        size = 8
    down = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    call(runtime, "cudaMemcpyAsync", target, source, size, down, stream)
    if what == "freed":
        call(runtime, "cudaFree", device)
        assert bytes_at(device) == bytes([FREED]) * 4
    call(runtime, "cudaStreamSynchronize", stream)
    assert any(violation in text for text in gpu.violations)


def test_what_is_not_freed_is_a_problem(gpu: EmulatedGpu, runtime: Any) -> None:
    device = call(runtime, "cudaMalloc", 4)
    stream = call(runtime, "cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
    assert gpu.problems() == ["leaked device memory of 4", "leaked stream"]
    call(runtime, "cudaFree", device)
    call(runtime, "cudaStreamDestroy", stream)
    assert gpu.problems() == []
    assert runtime.cudaFree(device)[0].name == "cudaErrorInvalidResourceHandle"
    assert gpu.problems() == [f"cudaFree: no such handle or address ({device},)"]


@pytest.mark.parametrize(
    "forbidden", ["cudaMalloc", "cudaStreamSynchronize", "cudaStreamWaitEvent"]
)
def test_a_capture_does_not_survive_what_cannot_be_captured(
    gpu: EmulatedGpu, runtime: Any, forbidden: str
) -> None:
    stream = call(runtime, "cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
    event = call(runtime, "cudaEventCreateWithFlags", runtime.cudaEventDisableTiming)
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call(runtime, "cudaStreamBeginCapture", stream, mode)
    arguments = {"cudaMalloc": (4,), "cudaStreamWaitEvent": (stream, event, 0)}
    status, *_ = getattr(runtime, forbidden)(*arguments.get(forbidden, (stream,)))
    assert status.name.startswith("cudaErrorStreamCapture")
    status, _ = runtime.cudaStreamEndCapture(stream)
    assert status.name == "cudaErrorStreamCaptureInvalidated"
    call(runtime, "cudaStreamSynchronize", stream)  # the stream is usable again


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda library, runtime: library.CudaGraphStrategy, AttributeError),  # of RTX alone
        (lambda library, runtime: runtime.cudaMallocQuick, AttributeError),
        (lambda library, runtime: runtime.cudaMalloc(), TypeError),
        (lambda library, runtime: runtime.cudaMalloc(4, 4), TypeError),
        (lambda library, runtime: library.Runtime(object()).deserialize(b""), AttributeError),
        (
            lambda library, runtime: library.Runtime(object()).deserialize_cuda_engine(),
            TypeError,
        ),
        (lambda library, runtime: library.Builder, NotImplementedError),
    ],
)
def test_what_the_genuine_library_lacks_is_refused(
    gpu: EmulatedGpu, runtime: Any, use: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        use(gpu.tensorrt("tensorrt", "11.4.0", max_batch=4), runtime)
