"""OpenVINO on x86 and Arm CPUs: runs every precision's ONNX graph.

Source: OpenVINO Python API (Core).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ...errors import BackendError, ResourceError, engine_error, install_command
from ...manifest import EngineSpec, Fact
from ...schema import decode
from ..base import NO_EXTERNAL_DATA, BlobStore, ExternalData, OnnxBackendMixin, written_out
from ..cpu import choose_threads, cpu_name, is_limited
from ..installed import installed_version, is_installed
from ..process import REMEDY, keep_in_children
from .session import OpenVinoSession, last_line, open_session
from .settings import DEFAULTS, NATIVE, OpenVinoSettings

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
    """Returns the process's only Core. Each Core sets a signal stack, and at its end restores the
    previous one, which is already freed if Cores end in the order of their creation: the next
    signal, such as Ctrl-C, would then crash the process.
    """
    return load_library().Core()


_ran_in: list[int] = []
"""Id of the process that ran OpenVINO first, as known in it and in its forked children. OpenVINO's
threads, which all models share, exist only in that process."""


def _fork_problem() -> str | None:
    """Returns why OpenVINO cannot run in this process, with the remedy; None if it can."""
    if not _ran_in or _ran_in[0] == os.getpid():
        return None
    return f"OpenVINO ran in process {_ran_in[0]} before it forked this one: {REMEDY}"


@dataclass(frozen=True)
class OpenVino(OnnxBackendMixin):
    """See `runtime.backends.base.Backend`.

    Attributes:
        properties: Additional properties for all its models.
        settings: How it runs them.
    """

    name: str = "openvino"
    graph: str = "cpu"
    lacks: tuple[str, ...] = ()
    opens_after_fork: bool = False
    properties: tuple[tuple[str, Any], ...] = ()
    settings: OpenVinoSettings = DEFAULTS

    def version(self) -> str:
        return installed_version("openvino") or str(load_library().__version__).partition("-")[0]

    def device(self) -> str:
        return cpu_name()

    def run_problem(self) -> str | None:
        return _fork_problem() if is_installed("openvino") else _MISSING

    def tuned(self, settings: Mapping[str, Fact]) -> OpenVino:
        return replace(self, settings=decode(OpenVinoSettings, dict(settings)))

    def has_type(self, name: str) -> bool:
        """Returns true if this processor natively computes in a type, such as "bf16" or "f16"."""
        names = {"f16": "FP16", "f32": "FP32"}
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return names.get(name, name.upper()) in capabilities

    def open(
        self,
        blob: bytes,
        spec: EngineSpec,
        external: ExternalData = NO_EXTERNAL_DATA,
        scratch: BlobStore | None = None,
        threads: int | None = None,
    ) -> OpenVinoSession:
        library = load_library()
        problem = _fork_problem()
        if problem:
            raise BackendError(problem)
        _ran_in[:] = [os.getpid()]
        threads = threads if threads is not None else self.settings.threads or None
        hints = _thread_hints(threads) | self.settings.properties | dict(self.properties)
        try:
            core = _core()
            if external:
                with written_out(blob, external) as path:
                    model = core.read_model(path)
            else:
                model = core.read_model(blob)
            return keep_in_children(self._open(library, core, model, spec, hints))
        except ResourceError:
            raise
        except Exception as error:  # RuntimeError with pages of C++ source locations
            raise engine_error(
                f"OpenVINO {self.version()} refuses the graph: {last_line(error)}"
            ) from None

    def _open(
        self, library: Any, core: Any, model: Any, spec: EngineSpec, hints: dict[str, Any]
    ) -> OpenVinoSession:
        """Compiles a model in fp32, or in bf16 around 8-bit matrix products if the CPU has it: that
        is a tenth faster, with an error that is small beside that of the products. By default
        OpenVINO would compute fp32 graphs in bf16 too.
        """
        quantised = any(node.get_type_name() == _QUANTISER for node in model.get_ops())
        arithmetic = self.settings.arithmetic
        if arithmetic == NATIVE:
            arithmetic = "bf16" if quantised and self.has_type("bf16") else "f32"
        precision = {"INFERENCE_PRECISION_HINT": arithmetic}

        def compile_model(model: Any, properties: dict[str, Any]) -> Any:
            return core.compile_model(model, "CPU", precision | hints | properties)

        return open_session(library, model, spec, compile_model, self.settings)


def _thread_hints(threads: int | None) -> dict[str, Any]:
    """Returns the properties that limit OpenVINO to the requested threads, or to a container's
    quota. They are not pinned: the threads of several processes would share the first cores.
    """
    if threads is None and not is_limited():
        return {}
    return {"INFERENCE_NUM_THREADS": choose_threads(threads), "ENABLE_CPU_PINNING": False}
