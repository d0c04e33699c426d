"""The TensorRT backend: real builds by TensorRT for RTX, and the session on an emulated GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.backends import BACKENDS, BuildOptions, cuda
from runtime.backends.tensorrt import TensorRT
from runtime.bundle import Bundle
from runtime.engine import Engine
from runtime.errors import EngineError, InputError
from runtime.manifest import EngineSpec

from ...concurrency import wrong_answers
from .emulation import EmulatedCuda, emulated_tensorrt

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def graph(bundle: Path, name: str = "fp32") -> tuple[bytes, EngineSpec]:
    opened = Bundle.open(bundle)
    return opened.read(opened.manifest.precisions[name].graphs["gpu"].file), opened.manifest.spec


@needs_rtx
class TestBuild:
    def test_progress_is_told(self, bundle_source: Path) -> None:
        steps: list[tuple[int, int]] = []
        options = BuildOptions(progress=lambda what, done, total: steps.append((done, total)))
        assert len(RTX.compile(*graph(bundle_source), options)) > 100_000
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] > 0

    def test_fewer_gpus_make_another_engine(self, bundle_source: Path) -> None:
        options = BuildOptions(compute_capabilities=("8.9",))
        assert len(RTX.compile(*graph(bundle_source), options)) > 100_000

    def test_unknown_gpu_is_named(self, bundle_source: Path) -> None:
        with pytest.raises(InputError, match=r"no compute capability '3\.5': choose from .*8\.9"):
            RTX.compile(*graph(bundle_source), BuildOptions(compute_capabilities=("3.5",)))

    def test_a_graph_that_cannot_be_parsed_is_one_clear_error(self, bundle_source: Path) -> None:
        onnx, spec = graph(bundle_source)
        with pytest.raises(EngineError, match="parser refused it") as caught:
            RTX.compile(onnx[: len(onnx) // 2], spec, BuildOptions())
        assert "\n" not in str(caught.value)

    def test_open_without_a_driver_is_one_clear_error(self, bundle_source: Path) -> None:
        if RTX.run_problem() is None:
            pytest.skip("there is a GPU here")
        onnx, spec = graph(bundle_source)
        engine = RTX.compile(onnx, spec, BuildOptions())
        with pytest.raises(EngineError, match="cannot open this engine"):
            RTX.open(engine, spec)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> EmulatedCuda:
    """An emulated GPU with TensorRT, as the backend "tensorrt" sees it."""
    emulated = EmulatedCuda()
    library = emulated_tensorrt(emulated, max_batch=4)
    monkeypatch.setattr(cuda, "_runtime", lambda: emulated)
    monkeypatch.setattr(TensorRT, "_library", lambda self: library)
    return emulated


class TestSession:
    backend = TensorRT("tensorrt", module_name="tensorrt")

    def test_answers_are_the_graphs(
        self, gpu: EmulatedCuda, bundle_source: Path, digit_frames: np.ndarray
    ) -> None:
        onnx, spec = graph(bundle_source)
        session = self.backend.open(onnx, spec)
        expected = BACKENDS["onnxruntime"].open(onnx, spec).run(digit_frames)
        for size in (4, 1, 3):
            np.testing.assert_allclose(session.run(digit_frames[:size]), expected[:size], atol=1e-5)
        session.close()

    def test_an_answer_is_the_callers_own(
        self, gpu: EmulatedCuda, bundle_source: Path, digit_frames: np.ndarray
    ) -> None:
        session = self.backend.open(*graph(bundle_source))
        first = session.run(digit_frames[:2])
        kept = first.copy()
        session.run(digit_frames[2:4])
        np.testing.assert_array_equal(first, kept)
        session.close()

    def test_buffers_are_allocated_once_and_all_freed(
        self, gpu: EmulatedCuda, bundle_source: Path, digit_frames: np.ndarray
    ) -> None:
        session = self.backend.open(*graph(bundle_source))
        blocks = set(gpu.memory)
        for _ in range(3):
            session.run(digit_frames[:4])
        assert set(gpu.memory) == blocks
        session.close()
        assert gpu.memory == {}
        assert gpu.streams == {}

    @pytest.mark.parametrize("allocations", range(4))
    def test_memory_that_runs_out_is_one_error_and_no_leak(
        self, gpu: EmulatedCuda, bundle_source: Path, allocations: int
    ) -> None:
        gpu.allocations = allocations
        with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
            self.backend.open(*graph(bundle_source))
        assert gpu.memory == {}
        assert gpu.streams == {}

    def test_an_engine_of_another_version_is_refused_with_the_remedy(
        self, gpu: EmulatedCuda, bundle_source: Path
    ) -> None:
        with pytest.raises(EngineError, match="vit-edge build") as caught:
            self.backend.open(b"bad", graph(bundle_source)[1])
        assert "version tag does not match" in str(caught.value)

    def test_a_batch_outside_the_profile_is_refused(
        self, gpu: EmulatedCuda, bundle_source: Path, digit_frames: np.ndarray
    ) -> None:
        onnx, spec = graph(bundle_source)
        wide = EngineSpec(
            spec.input_name, spec.output_name, spec.image_shape, spec.outputs, (1, 8, 8)
        )
        session = self.backend.open(onnx, wide)
        with pytest.raises(EngineError, match="profile"):
            session.run(digit_frames[:8])
        session.close()

    def test_threads_get_their_own_answers(
        self, gpu: EmulatedCuda, bundle_source: Path, digit_frames: np.ndarray
    ) -> None:
        onnx, spec = graph(bundle_source)
        session = self.backend.open(onnx, spec)
        expected = BACKENDS["onnxruntime"].open(onnx, spec).run(digit_frames)
        assert wrong_answers(session.run, digit_frames, expected, rounds=20) == []
        session.close()

    def test_engine_builds_what_is_missing_once_and_keeps_it(
        self,
        gpu: EmulatedCuda,
        bundle_source: Path,
        digit_frames: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The bundle has no engine of TensorRT 10.99: the first load builds it, the second finds
        it.
        """
        builds: list[int] = []

        def compile_here(
            self: TensorRT, onnx: bytes, spec: EngineSpec, options: BuildOptions
        ) -> bytes:
            builds.append(len(onnx))
            return onnx

        monkeypatch.setattr(TensorRT, "compile", compile_here)
        monkeypatch.setattr(TensorRT, "build_problem", lambda self: None)
        for _ in range(2):
            with Engine.load(bundle_source, "fp32", "tensorrt") as engine:
                assert engine(digit_frames).shape == (10, 10)
                assert engine.info.device == "Emulated GPU (8.9)"
        assert len(builds) == 1

    def test_wrong_tensor_types_are_refused(
        self, gpu: EmulatedCuda, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from . import emulation

        monkeypatch.setattr(emulation.EmulatedEngine, "get_tensor_dtype", lambda self, name: "HALF")
        with pytest.raises(EngineError, match="its tensors are"):
            self.backend.open(*graph(bundle_source))
