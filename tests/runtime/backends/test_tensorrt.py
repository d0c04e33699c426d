"""The TensorRT backend: real builds by TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import EngineError, InputError
from vit_edge.runtime.manifest import EngineSpec

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
        assert len(RTX.compile(*graph(bundle_source), options).engine) > 100_000
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] > 0

    def test_fewer_gpus_make_another_engine(self, bundle_source: Path) -> None:
        options = BuildOptions(compute_capabilities=("8.9",))
        assert len(RTX.compile(*graph(bundle_source), options).engine) > 100_000

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
        engine = RTX.compile(onnx, spec, BuildOptions()).engine
        with pytest.raises(EngineError, match="cannot open this engine"):
            RTX.open(engine, spec)
