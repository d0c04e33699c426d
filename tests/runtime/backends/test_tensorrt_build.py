"""Builds: by TensorRT for RTX in earnest, which needs no GPU; by the others as far as it goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.backends.tensorrt.open import (
    REMEDIES,
    open_engine,
    opens_forward,
    parse_version,
)
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineEntry, EngineSpec

from .api import recorded, recordings

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def graph(bundle: Path, precision: str = "fp16") -> tuple[bytes, EngineSpec]:
    opened = Bundle.open(bundle)
    file = opened.manifest.precisions[precision].graphs["gpu"].file
    return opened.read(file), opened.manifest.spec


class TestLean:
    lean = BACKENDS["tensorrt-lean"]

    @pytest.mark.parametrize("api", recordings("tensorrt"), ids=lambda api: api.version)
    def test_its_builder_flags_exist(self, api: Any) -> None:
        assert isinstance(self.lean, TensorRT)
        assert self.lean.builder_flags == ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
        assert all(api.has("BuilderFlag", flag) for flag in self.lean.builder_flags)

    @needs_rtx
    def test_its_flags_reach_the_builder(self, bundle_source: Path) -> None:
        """TensorRT for RTX has the same flags; one that nobody has is refused."""
        onnx, spec = graph(bundle_source)
        assert isinstance(self.lean, TensorRT)
        flags = self.lean.builder_flags
        backend = TensorRT("lean", "tensorrt_rtx", "tensorrt_rtx", flags)
        assert len(backend.compile(onnx, spec, BuildOptions()).engine) > 100_000
        wrong = TensorRT("lean", "tensorrt_rtx", "tensorrt_rtx", ("FASTER",))
        with pytest.raises(EngineError, match="FASTER"):
            wrong.compile(onnx, spec, BuildOptions())

    def test_what_building_needs_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        problem = self.lean.build_problem()
        assert problem is not None
        assert "pip install 'tensorrt>=10.3' 'cuda-bindings>=12.8'" in problem
        assert "it builds the engines of tensorrt-lean" in problem

    @pytest.mark.parametrize(
        ("builder", "here", "problem"),
        [("11.4.0", "11.2.1", "too old"), ("11.4.0", "11.4.0.106", None), ("10.3", "11.4", None)],
    )
    def test_an_older_runtime_is_told_before_a_build(
        self, builder: str, here: str, problem: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        versions = {"tensorrt": builder, "tensorrt_lean": here}
        for name, version in versions.items():
            library = SimpleNamespace(__version__=version)
            monkeypatch.setitem(sys.modules, name, library)
        monkeypatch.setattr(cuda, "device_problem", lambda: None)
        found = self.lean.build_problem()
        assert (found is None) == (problem is None)
        assert problem is None or problem in str(found)
        assert self.lean.builder_version() == builder


@pytest.mark.parametrize(
    ("built_by", "here", "opens"),
    [
        ("10.3.0", "10.3.0", True),
        ("10.3.0", "11.4.0.106", True),
        ("10.9.0", "10.16.1", True),
        ("10.16.1", "10.9.0", False),
        ("11.0.0.114", "10.16.1.11", False),
        ("11.4.0.107", "11.4.0.106", True),
        ("8.5.3", "11.4.0", False),
        ("8.6.1", "11.4.0", True),
        ("", "11.4.0", False),
    ],
)
def test_version_compatible_engines_open_forward_only(
    built_by: str, here: str, opens: bool
) -> None:
    assert opens_forward(built_by, here) is opens


def test_versions_are_numbers() -> None:
    assert parse_version("10.14.1.48.post1") == (10, 14, 1, 48)
    assert parse_version("11.4.0a1") == (11, 4, 0)
    assert parse_version("unknown") == ()


class TestMismatch:
    @pytest.fixture
    def backends(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, TensorRT]:
        """On a GPU of compute capability 8.9, with version 11.4.0 of everything."""
        library = SimpleNamespace(__version__="11.4.0")
        monkeypatch.setattr(TensorRT, "_library", lambda self: library)
        monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
        return {n: b for n, b in BACKENDS.items() if isinstance(b, TensorRT)}

    @pytest.mark.parametrize(
        ("backend", "version", "capabilities", "opens"),
        [
            ("tensorrt", "11.4.0", ("8.9",), True),
            ("tensorrt", "11.4.0", ("8.6", "8.9"), True),
            ("tensorrt", "11.4.0", ("8.7",), False),
            ("tensorrt", "10.3", ("8.9",), False),
            ("tensorrt-rtx", "11.4.0", (), True),
            ("tensorrt-rtx", "11.3.0", (), False),
            ("tensorrt-lean", "10.3", ("8.9",), True),
            ("tensorrt-lean", "10.3", ("8.7",), False),
            ("tensorrt-lean", "11.5.0", ("8.9",), False),
        ],
    )
    def test_which_engines_open(
        self,
        backends: dict[str, TensorRT],
        backend: str,
        version: str,
        capabilities: tuple[str, ...],
        opens: bool,
    ) -> None:
        engine = EngineEntry("engines/x.engine", backend, version, capabilities)
        assert (backends[backend].engine_problem(engine) is None) is opens

    def test_why_not_is_one_line_with_the_remedy(self, backends: dict[str, TensorRT]) -> None:
        engine = EngineEntry("engines/fp16.tensorrt.engine", "tensorrt", "10.3", ("8.7",))
        assert backends["tensorrt"].engine_problem(engine) == (
            "engines/fp16.tensorrt.engine was built by tensorrt 10.3 for 8.7; here are tensorrt "
            "11.4.0 and 8.9: `vit-edge build BUNDLE --target tensorrt`"
        )


def test_remedies_are_for_what_the_library_finds() -> None:
    found = recorded("tensorrt_rtx", "1.7.1").enum("EngineInvalidityDiagnostics")
    assert REMEDIES.keys() == found.keys()


class Runtime:
    """Stands for a Runtime that refuses every engine, for the reasons in its diagnostics."""

    engine_host_code_allowed = True
    engine_header_size = 4
    diagnostics = 0
    asked: bytes = b""

    def __init__(self, logger: Any) -> None:
        if logger.broken:
            logger.errors.append("cudaError 35")

    def deserialize_cuda_engine(self, blob: bytes) -> None:
        assert self.engine_host_code_allowed is False

    def get_engine_validity(self, header: bytes) -> tuple[int, int]:
        Runtime.asked = header
        return 2, self.diagnostics


class TestRefusal:
    @pytest.mark.parametrize(
        ("diagnostics", "says"),
        [
            (0, "another version or for another GPU"),
            (1, "another version: `vit-edge build`"),
            (4, "update the driver"),
            (6, "other GPUs: .*; the NVIDIA driver is too old"),
        ],
    )
    def test_rtx_tells_why(self, diagnostics: int, says: str) -> None:
        enum = recorded("tensorrt_rtx", "1.7.1").enum("EngineInvalidityDiagnostics")
        kinds = SimpleNamespace(**enum)
        runtime = type("Known", (Runtime,), {"diagnostics": diagnostics})
        library = SimpleNamespace(Runtime=runtime, EngineInvalidityDiagnostics=kinds)
        with pytest.raises(EngineError, match=says):
            open_engine(library, SimpleNamespace(errors=[], broken=False), b"header, body")
        assert Runtime.asked == b"head"

    def test_the_others_do_not(self) -> None:
        library = SimpleNamespace(Runtime=Runtime)
        with pytest.raises(EngineError, match="another version or for another GPU"):
            open_engine(library, SimpleNamespace(errors=[], broken=False), b"engine")

    def test_a_runtime_with_nothing_behind_it_is_never_touched(self) -> None:
        """TensorRT lean gives one where CUDA does not work, and crashes when it is used."""

        class Untouchable(Runtime):
            def __setattr__(self, name: str, value: object) -> None:
                raise AssertionError("it would have crashed")

        library = SimpleNamespace(Runtime=Untouchable)
        with pytest.raises(EngineError, match="nvidia-smi"):
            open_engine(library, SimpleNamespace(errors=[], broken=True), b"engine")


def test_lean_without_a_driver_is_an_error_and_no_crash() -> None:
    pytest.importorskip("tensorrt_lean", reason="tensorrt_lean is not installed")
    if cuda.device_problem() is None:
        pytest.skip("there is a GPU here")
    code = """
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
try:
    BACKENDS["tensorrt-lean"].open(b"x", engine_spec("i", "o", (8, 8, 1), 10, (1, 1, 1)))
except EngineError as error:
    print(error)
"""
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (found.returncode, "nvidia-smi" in found.stdout) == (0, True)
