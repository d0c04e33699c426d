"""OpenVINO on x86 and Arm CPUs: runs every precision's ONNX graph.

Source: OpenVINO Python API (Core).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...errors import BackendError, engine_error, install_command
from ...manifest import EngineSpec
from ..base import NO_EXTERNAL_DATA, BlobStore, ExternalData, OnnxBackendMixin, written_out
from ..cpu import cpu_name
from ..installed import installed_version, is_installed
from .session import OpenVinoSession, last_line, open_session

_MISSING = f"OpenVINO is not installed: {install_command('openvino')}"
_QUANTISER = "FakeQuantize"
"""OpenVINO's operation for a QuantizeLinear."""
_TELEMETRY = "openvino_telemetry"


def load_library() -> Any:
    """Imports OpenVINO without its telemetry, which would report the import to its maker.

    An application that imported OpenVINO before keeps its own choice.

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


@cache
def _core() -> Any:
    """Returns the process's only Core. Each sets a signal stack and restores the one before it,
    which is freed already if cores end in the order of their creation: the next signal, such as
    Ctrl-C, would then crash the process.
    """
    return load_library().Core()


@dataclass(frozen=True)
class OpenVino(OnnxBackendMixin):
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
        external: ExternalData = NO_EXTERNAL_DATA,
        scratch: BlobStore | None = None,
    ) -> OpenVinoSession:
        library = load_library()
        try:
            core = _core()
            if external:
                with written_out(blob, external) as path:
                    return self._open(library, core, core.read_model(path), spec)
            return self._open(library, core, core.read_model(blob), spec)
        except Exception as error:  # RuntimeError with pages of C++ places
            raise engine_error(
                f"OpenVINO {self.version()} refuses the graph: {last_line(error)}"
            ) from None

    def _open(self, library: Any, core: Any, model: Any, spec: EngineSpec) -> OpenVinoSession:
        """Compiles a model in fp32, or in bf16 around 8-bit matrix products where the CPU has it:
        that is a tenth faster, with an error that is small beside theirs. By itself OpenVINO would
        compute fp32 graphs in bf16 too.
        """
        quantised = any(node.get_type_name() == _QUANTISER for node in model.get_ops())
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if quantised and native else "f32"}

        def compile_model(model: Any, properties: dict[str, Any]) -> Any:
            return core.compile_model(model, "CPU", hint | properties)

        return open_session(library, model, spec, compile_model)
