from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.onnxruntime import (
    PROVIDERS,
    ExecutionProvider,
    OnnxRuntime,
    open_inference,
)
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.errors import EngineError

from .tiny import SPEC, tiny_frames, tiny_graph, tiny_scores

ROOT = Path(__file__).parents[3]


def test_nothing_is_reported_to_the_librarys_maker(bundle_source: Path, tmp_path: Path) -> None:
    """With telemetry on, a device id appears in the cache as soon as a session opens."""
    code = f"from vit_edge.runtime import Engine; Engine.load({str(bundle_source)!r}).close()"
    ours = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], check=True, env=ours, cwd=ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["vit-edge"]


def test_a_process_that_may_use_one_core_computes_on_that_core(bundle_source: Path) -> None:
    code = (
        "import os, sys\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from vit_edge.runtime import Engine\n"
        "engine = Engine.load(sys.argv[1], 'fp32', 'onnxruntime')\n"
        "threads = map(int, os.listdir('/proc/self/task'))\n"
        "print(len(set().union(*(os.sched_getaffinity(t) for t in threads))))\n"
    )
    command = [sys.executable, "-c", code, str(bundle_source)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1\n"


class TestAnotherProvider:
    """A row in the table is all that one takes."""

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> OnnxRuntime:
        row = ExecutionProvider("NPUExecutionProvider", "npu", lambda: "an NPU", lambda: None)
        monkeypatch.setitem(PROVIDERS, row.name, row)
        return OnnxRuntime("onnxruntime-npu", row.name, graph="npu")

    def test_what_is_missing_is_said_by_its_name(self, backend: OnnxRuntime) -> None:
        assert backend.device() == "an NPU"
        assert backend.run_problem() == (
            "this ONNX Runtime has no NPUExecutionProvider: pip install '.[npu]' in a checkout of "
            "vit-edge"
        )

    def test_the_cpu_never_stands_in_for_it(self, backend: OnnxRuntime) -> None:
        with pytest.raises(EngineError, match=r"would run on the CPU|refuses the graph"):
            backend.open(tiny_graph(), SPEC)

    def test_a_bundle_without_a_graph_for_it_has_no_candidate(
        self, backend: OnnxRuntime, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(BACKENDS, backend.name, backend)
        candidates = Deployment(Bundle.open(bundle_source)).candidates()
        assert candidates
        assert all(candidate.backend is not backend for candidate in candidates)


def test_memory_is_laid_out_ahead_for_engines_and_not_for_data_sets() -> None:
    whole = open_inference(tiny_graph())
    engine = BACKENDS["onnxruntime"].open(tiny_graph(), SPEC)
    assert not whole.get_session_options().enable_mem_pattern
    assert engine._session.get_session_options().enable_mem_pattern
    frames = tiny_frames(3)
    assert np.array_equal(whole.run(None, {SPEC.input_name: frames})[0], tiny_scores(frames))
