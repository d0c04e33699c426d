"""Runs a model in OpenVINO: a single image on all threads, batches in the way that suits the model.

Source: OpenVINO Python API (Model, Core, CompiledModel, InferRequest, Tensor), CPU device
documentation (NUM_STREAMS, PERFORMANCE_HINT).
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import ClosedError, EngineError, engine_error, first_line
from ...manifest import EngineSpec
from ...outputs import pack
from ..base import Frames, give_back_freed
from ..threads import LendingPool, stream_in_thread
from .graph import as_convolutions, find_token_products
from .settings import (
    APART,
    CONVOLUTIONS,
    DEFAULTS,
    PRODUCTS,
    SUITED,
    TOGETHER,
    OpenVinoSettings,
)

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]
Compile = Callable[[Any, dict[str, Any]], Any]
"""Compiles a model with these properties, in addition to those of all models."""

_LARGE = 500_000_000
"""Multiply-adds of an image from which a thread of its own pays off. A ViT-Ti has twice as many and
gets faster; the digits model has a six-hundredth and would take three times as long."""
_LATENCY = {"PERFORMANCE_HINT": "LATENCY"}
_X86 = ("x86_64", "AMD64")


class OpenVinoSession:
    """See `runtime.backends.base.Session`.

    Args:
        single: Runs one image.
        open_batches: Opens the runner of several images; called once, at the first such batch.
        threads: CPU threads that compute one call.
        settings: Settings that it runs with, after `SUITED` was resolved for the model.
    """

    takes_device_arrays = False

    def __init__(
        self,
        single: _Together,
        open_batches: Callable[[], Runner],
        threads: int | None = None,
        settings: OpenVinoSettings = DEFAULTS,
    ) -> None:
        self._single, self.settings, self.threads = single, settings, threads
        self._batches: Runner | None = None
        self._open_batches: Callable[[], Runner] | None = open_batches
        self._lock = threading.Lock()

    def run(self, images: Frames) -> Scores:
        assert isinstance(images, np.ndarray)  # takes_device_arrays
        try:
            runner = self._single if len(images) == 1 else self._runner_of_batches()
            return runner.run(_writable(images))
        except EngineError:
            raise
        except Exception as error:  # RuntimeError with pages of C++ source locations
            raise engine_error(f"OpenVINO failed: {last_line(error)}") from None

    def _runner_of_batches(self) -> Runner:
        with self._lock:
            if self._batches is None:
                if self._open_batches is None:
                    raise ClosedError
                self._batches = self._open_batches()
                self._open_batches = None  # it holds a copy of the weights
                give_back_freed()
            return self._batches

    def stream(self, batches: Iterable[Frames]) -> Iterator[Scores]:
        return stream_in_thread(self.run, batches)

    def counters(self) -> Any:
        """Returns the counters (`ov.ProfilingInfo`) of the nodes that run a single image, if the
        model was compiled with `PERF_COUNT`.
        """
        return self._single.counters()

    def close(self) -> None:
        with self._lock:
            self._open_batches = None
        for runner in (self._single, self._batches):
            if runner is not None:
                runner.close()


class Runner(Protocol):
    """Runs images, uint8 `[n, height, width, channels]` -> float32 `[n, width]`. Thread-safe."""

    def run(self, images: Images) -> Scores: ...

    def close(self) -> None: ...


def open_session(
    library: Any,
    model: Any,
    spec: EngineSpec,
    compile_model: Compile,
    settings: OpenVinoSettings,
) -> OpenVinoSession:
    """Opens a model with a dynamic or a fixed batch.

    If it is dynamic, a single image gets a graph whose shapes are all known: OpenVINO then need not
    decide anything anew in each call, and Linears can be convolutions.

    Raises:
        Exception: if OpenVINO refuses it, usually RuntimeError.
    """
    if model.input().partial_shape[0].is_static:
        compiled = compile_model(model, _LATENCY)
        together = _Together(library, compiled, spec)
        return OpenVinoSession(together, lambda: together, _threads(compiled), settings)
    one = model.clone()
    one.reshape([1, *spec.image_shape])
    linears = find_token_products(one)
    chosen = _suited(settings, sum(linear.macs for linear in linears))
    if chosen.linears == CONVOLUTIONS:
        as_convolutions(library, one, linears)
    compiled = compile_model(one, _LATENCY)
    single, threads = _Together(library, compiled, spec), _threads(compiled)
    if chosen.batches == TOGETHER:
        return OpenVinoSession(
            single,
            lambda: _Together(library, compile_model(model, _LATENCY), spec),
            threads,
            chosen,
        )
    count = min(threads, spec.max_batch)
    if count == 1:  # frees `one`, which is as large as the weights
        return OpenVinoSession(
            single, lambda: _EachAlone(library, compiled, 1, single, spec), threads, chosen
        )
    streams = {"NUM_STREAMS": count, "ENABLE_CPU_PINNING": False}
    return OpenVinoSession(
        single,
        lambda: _EachAlone(library, compile_model(one, streams), count, single, spec),
        threads,
        chosen,
    )


def _suited(settings: OpenVinoSettings, macs: int) -> OpenVinoSettings:
    """Returns settings with `linears` and `batches` chosen for a model of `macs` multiply-adds."""
    is_large = macs >= _LARGE
    convolutions = is_large and platform.machine() in _X86
    linears = CONVOLUTIONS if convolutions else PRODUCTS
    batches = APART if is_large else TOGETHER
    return replace(
        settings,
        linears=linears if settings.linears == SUITED else settings.linears,
        batches=batches if settings.batches == SUITED else settings.batches,
    )


def _threads(compiled: Any) -> int:
    return int(compiled.get_property("INFERENCE_NUM_THREADS"))


class _Together:
    """Runs all images of a call in one request; a request serves one thread at a time."""

    def __init__(self, library: Any, compiled: Any, spec: EngineSpec) -> None:
        self._tensor, self._outputs = library.Tensor, spec.output_names
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = LendingPool([compiled.create_infer_request() for _ in range(count)])

    def run(self, images: Images) -> Scores:
        with self._requests.lend() as request:
            request.set_input_tensor(self._tensor(images, shared_memory=True))
            request.start_async()
            request.wait()
            return pack([request.get_tensor(name).data.copy() for name in self._outputs])

    def counters(self) -> Any:
        with self._requests.lend() as request:  # the one that was given back last
            return request.get_profiling_info()

    def close(self) -> None:
        self._requests.close(lambda request: None)


class _EachAlone:
    """Runs every image of a call by itself, several at a time: threads with an image each need not
    wait for each other in every layer.

    Args:
        library: OpenVINO.
        compiled: A model of one image, for `streams` at a time.
        streams: Number of images at a time.
        single: Runs the last images one by one on all threads, if they would leave half of the
            streams or more idle.
        spec: Its input and outputs.
    """

    def __init__(
        self, library: Any, compiled: Any, streams: int, single: Runner, spec: EngineSpec
    ) -> None:
        self._tensor, self._spec, self._streams = library.Tensor, spec, streams
        self._requests = LendingPool([[compiled.create_infer_request() for _ in range(streams)]])
        self._single = single

    def run(self, images: Images) -> Scores:
        scores = np.empty((len(images), self._spec.width), np.float32)
        rest = len(images) % self._streams
        side_by_side = len(images) - (rest if 2 * rest <= self._streams else 0)
        with self._requests.lend() as requests:
            self._run(requests, images[:side_by_side], scores)
        for index in range(side_by_side, len(images)):
            scores[index] = self._single.run(images[index : index + 1])[0]
        return scores

    def _run(self, requests: list[Any], images: Images, scores: Scores) -> None:
        """Gives images to the requests in turn; each takes its next one once it is done."""
        waiting: dict[int, Any] = {}

        def take(index: int) -> None:
            request = waiting.pop(index)
            request.wait()
            names = self._spec.output_names
            scores[index] = pack([request.get_tensor(name).data for name in names])[0]

        try:
            for index in range(len(images)):
                if index >= self._streams:
                    take(index - self._streams)
                request = requests[index % self._streams]
                image = self._tensor(images[index : index + 1], shared_memory=True)
                request.set_input_tensor(image)
                request.start_async()
                waiting[index] = request
            for index in sorted(waiting):
                take(index)
        finally:  # after a failure no request may still use memory that the caller gets back
            for request in waiting.values():
                request.wait()

    def close(self) -> None:
        self._requests.close(lambda requests: None)


def last_line(error: BaseException) -> str:
    """Returns the last line of OpenVINO's message: the reason, after pages of source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else first_line(error)


def _writable(images: Images) -> Images:
    """Returns the same memory as writable, which OpenVINO requires, though it only reads inputs."""
    if images.flags.writeable:
        return images
    memory = memoryview((ctypes.c_uint8 * images.nbytes).from_address(images.ctypes.data))
    return np.frombuffer(memory, dtype=np.uint8).reshape(images.shape)
