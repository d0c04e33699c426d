"""A real ViT through the engine, the TensorRT backends and an emulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, Built
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import ClosedError, InputError
from vit_edge.runtime.manifest import EngineEntry, EngineSpec
from vit_edge.runtime.selection import open_best

from .emulation import LEGACY
from .rig import Rig, make_rig


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def builds() -> list[int]:
    """Sizes of the graphs that engines were built of."""
    return []


@pytest.fixture
def gpu(
    backend: str, builds: list[int], bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    """The emulated GPU, where the engine of a graph is the graph."""

    def build(self: TensorRT, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        builds.append(len(onnx))
        return Built(onnx)

    monkeypatch.setattr(TensorRT, "compile", build)
    monkeypatch.setattr(TensorRT, "build_problem", lambda self: None)
    flavour = {"tensorrt": "10", "tensorrt-rtx": "rtx"}[backend]
    rig = make_rig(monkeypatch, flavour, Bundle.open(bundle_source).manifest.spec.max_batch)
    rig.library.__version__ = f"{rig.library.__version__}.emulated"  # no prebuilt engine fits
    yield rig
    assert not (problems := rig.problems()), problems


@pytest.fixture
def expected(bundle_source: Path, digit_frames: np.ndarray) -> np.ndarray:
    opened = Bundle.open(bundle_source)
    graph = opened.read(opened.manifest.precisions["fp32"].graphs["gpu"].file)
    spec = opened.manifest.spec
    session = BACKENDS["onnxruntime"].open(graph, spec)
    parts = (digit_frames[i : i + spec.max_batch] for i in range(0, 10, spec.max_batch))
    return np.concatenate([session.run(part) for part in parts])


def test_it_answers_calls_streams_and_frames_on_the_gpu(
    gpu: Rig, backend: str, bundle_source: Path, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    with Engine.load(bundle_source, "fp32", backend) as engine:
        assert engine.info.device == "Emulated GPU (8.9)"
        for _ in range(3):
            np.testing.assert_allclose(engine(digit_frames), expected, atol=1e-4)
        on_gpu = gpu.on_gpu(digit_frames, stream=LEGACY)
        np.testing.assert_allclose(engine(on_gpu), expected, atol=1e-4)
        singles = list(engine.stream(digit_frames))
        np.testing.assert_allclose(singles, expected, atol=1e-4)
        items = [digit_frames[:7], on_gpu, digit_frames[7:]]
        whole = np.concatenate(list(engine.stream(items)))
        wanted = np.concatenate([expected[:7], expected, expected[7:]])
        np.testing.assert_allclose(whole, wanted, atol=1e-4)
        with pytest.raises(InputError, match="not on GPU 0"):
            engine(gpu.on_gpu(digit_frames, device=1))
    with pytest.raises(ClosedError):
        engine(digit_frames)


def test_what_is_missing_is_built_once_and_kept(
    gpu: Rig, backend: str, builds: list[int], bundle_source: Path, digit_frames: np.ndarray
) -> None:
    for _ in range(2):
        with Engine.load(bundle_source, "fp32", backend) as engine:
            assert engine(digit_frames).shape == (10, 10)
    assert len(builds) == 1


def test_what_is_compiled_at_run_time_is_kept_for_this_engine(
    gpu: Rig, backend: str, bundle_source: Path, digit_frames: np.ndarray
) -> None:
    with Engine.load(bundle_source, "fp32", backend) as engine:
        engine(digit_frames[:3])
    opened = Bundle.open(bundle_source)
    device = f"{gpu.library.__version__}|Emulated GPU (8.9)"
    scratch = DeviceCache.of(opened.digest).scratch(f"fp32|{backend}|{device}")
    kept = scratch.read()
    if gpu.captures_itself:
        assert kept is not None
        assert b"3" in kept.partition(b":")[2].split()
    else:
        assert kept is None


def test_a_refusal_is_remembered_unless_it_may_pass(
    gpu: Rig, backend: str, bundle_source: Path
) -> None:
    candidate, other = (Candidate("fp32", BACKENDS[name]) for name in (backend, "onnxruntime"))
    cache = DeviceCache.of(Bundle.open(bundle_source).digest)

    def choose() -> str:
        """Opens the best as a new process would; returns its backend."""
        best = open_best(Deployment(Bundle.open(bundle_source)), [candidate, other])
        best.session.close()
        return best.candidate.backend.name

    gpu.gpu.fail_allocation = 0
    assert choose() == "onnxruntime"
    assert cache.finding(candidate.key).refused is None
    cache.store_latency(other.key, 1e9)
    assert choose() == backend
    cache.store_engine(candidate.key, b"bad")  # of another version; forgets what was known
    for _ in range(2):
        assert choose() == "onnxruntime"
        assert "version tag does not match" in str(cache.finding(candidate.key).refused)


def test_an_engine_for_another_gpu_is_not_opened(gpu: Rig, backend: str) -> None:
    """The emulated GPU has compute capability 8.9."""
    known, version = BACKENDS[backend], gpu.library.__version__

    def problem(*capabilities: str) -> str | None:
        return known.engine_problem(EngineEntry("engines/x", backend, version, capabilities))

    assert problem("8.9", "12.0") is None
    assert problem() is None
    assert "for 8.6; here are" in str(problem("8.6"))
    if backend == "tensorrt":
        assert known.built_for(BuildOptions()) == ("8.9",)
