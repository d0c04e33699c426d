"""OpenVINO on x86 and Arm CPUs: runs every precision's ONNX graph as it is.

Source: OpenVINO Python API (Core, CompiledModel, InferRequest, Tensor).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, EngineError, first_line
from ..manifest import EngineSpec
from .base import NONE, External, Frames, Scratch
from .cpu import cpu_name
from .external import written_out
from .graphs import RunsGraphs
from .installed import installed_version, is_installed
from .pool import Pool
from .streaming import stream_in_thread

_MISSING = "OpenVINO is not installed: pip install 'vit-edge[openvino]'"
_QUANTISER = "FakeQuantize"
"""What OpenVINO makes of a QuantizeLinear."""
_TELEMETRY = "openvino_telemetry"


def load_library() -> Any:
    """OpenVINO, without its telemetry: importing it would report to its maker that somebody did.

    An application that imported OpenVINO itself before keeps what it chose.

    Raises:
        BackendError: if it is not installed.
    """
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    if "openvino" not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # "not installed", to importers
    try:
        import openvino
    except ImportError:
        raise BackendError(_MISSING) from None
    finally:
        if before is absent:
            sys.modules.pop(_TELEMETRY, None)
        else:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]
    return openvino


@dataclass(frozen=True)
class OpenVino(RunsGraphs):
    """See `runtime.backends.base.Backend`."""

    name: str = "openvino"
    graph: str = "cpu"
    lacks: tuple[str, ...] = ()

    def version(self) -> str:
        return installed_version("openvino") or str(load_library().__version__).partition("-")[0]

    def device(self) -> str:
        return cpu_name()

    def run_problem(self) -> str | None:
        return None if is_installed("openvino") else _MISSING

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: External = NONE,
        scratch: Scratch | None = None,
    ) -> OpenVinoSession:
        library = load_library()
        try:
            core = library.Core()
            if external:
                with written_out(blob, external) as path:
                    compiled = _compile(core, core.read_model(path))
            else:
                compiled = _compile(core, core.read_model(blob))
        except Exception as error:  # RuntimeError with pages of C++ places
            raise EngineError(
                f"OpenVINO {self.version()} refuses the graph: {_reason(error)}"
            ) from None
        return OpenVinoSession(library, compiled, spec)


def _compile(core: Any, model: Any) -> Any:
    """Left alone, OpenVINO would compute fp32 graphs in bf16 where the CPU has it: fp32 means fp32
    here. Around 8-bit matrix products bf16 is welcome: it is a tenth faster, its error is small
    beside theirs, and golden samples have the last word.
    """
    quantised = any(node.get_type_name() == _QUANTISER for node in model.get_ops())
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if quantised and native else "f32",
    }
    return core.compile_model(model, "CPU", properties)


def _reason(error: BaseException) -> str:
    """The last line of OpenVINO's message is the reason; those before say where it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else first_line(error)


class OpenVinoSession:
    """See `runtime.backends.base.Session`. A request is one thread's at a time: they are pooled."""

    takes_device_arrays = False

    def __init__(self, library: Any, compiled: Any, spec: EngineSpec) -> None:
        self._tensor, self._output = library.Tensor, spec.output_name
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = Pool([compiled.create_infer_request() for _ in range(count)])

    def run(self, images: Frames) -> NDArray[np.float32]:
        assert isinstance(images, np.ndarray)  # takes_device_arrays
        with self._requests.lend() as request:
            try:
                request.set_input_tensor(self._tensor(_writable(images), shared_memory=True))
                request.start_async()
                request.wait()
                scores: NDArray[np.float32] = request.get_tensor(self._output).data.copy()
            except Exception as error:  # as above
                raise EngineError(f"OpenVINO failed: {_reason(error)}") from None
        return scores

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        return stream_in_thread(self.run, batches)

    def close(self) -> None:
        self._requests.close(lambda request: None)


def _writable(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same memory: OpenVINO shares writable arrays only, though it never writes to an input."""
    if images.flags.writeable:
        return images
    memory = memoryview((ctypes.c_uint8 * images.nbytes).from_address(images.ctypes.data))
    return np.frombuffer(memory, dtype=np.uint8).reshape(images.shape)
