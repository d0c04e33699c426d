"""The TensorRT backend: real builds by TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.backends import BACKENDS, BuildOptions, tensorrt_build
from runtime.bundle import Bundle
from runtime.errors import EngineError, InputError
from runtime.manifest import EngineSpec

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


def test_full_tensorrt_keeps_its_timing_cache(tmp_path: Path) -> None:
    """create, set before the build, serialised after it; RTX has no use for one."""
    calls: list[object] = []
    cache = SimpleNamespace(serialize=lambda: b"timings")
    config = SimpleNamespace(
        create_timing_cache=lambda old: calls.append(old) or cache,
        set_timing_cache=lambda given, ignore_mismatch: calls.append(given is cache) or True,
    )
    path = tmp_path / "cache" / "timing"
    for _ in range(2):
        with tensorrt_build._timing_cache(config, path):
            calls.append("build")
    assert calls == [b"", True, "build", b"timings", True, "build"]
    assert path.read_bytes() == b"timings"


def test_a_timing_cache_of_another_device_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "timing"
    path.write_bytes(b"foreign")
    config = SimpleNamespace(
        create_timing_cache=lambda old: SimpleNamespace(old=old, serialize=lambda: b"new" + old),
        set_timing_cache=lambda given, ignore_mismatch: given.old != b"foreign",
    )
    with tensorrt_build._timing_cache(config, path):
        pass
    assert path.read_bytes() == b"new"
