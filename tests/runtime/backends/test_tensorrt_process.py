"""Engines are built in a child process, whatever becomes of it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions
from vit_edge.runtime.backends.base import AskedProduct
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.backends.tensorrt.build import OutermostPhases, parse_network
from vit_edge.runtime.errors import EngineError, ResourceError
from vit_edge.runtime.tools.plan.engine_plan import plan_of

from .test_tensorrt_build import graph, needs_rtx
from .tiny import SPEC, tiny_graph

RTX = BACKENDS["tensorrt-rtx"]
UNWELL = TensorRT("unwell", module_name="tests.runtime.backends.unwell")


def children() -> set[str]:
    """Our child processes."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def runs(process: str) -> bool:
    """Whether it is there, and not one that has ended and that nobody waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class TestUnwell:
    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("crash", r"the builder crashed \(SIGSEGV\).*said: VERBOSE choosing tactics"),
            ("killed", "was killed: most likely the memory did not suffice"),
            ("full", r"Error Code 2: OutOfMemory"),
            ("exits", "the builder ended with status 3"),
            ("raises", "no such tactic"),
        ],
    )
    def test_its_end_is_one_clear_error(
        self, how: str, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNWELL", how)
        before = children()
        with pytest.raises(EngineError, match=says) as caught:
            UNWELL.compile(tiny_graph(), SPEC, BuildOptions(what="int8 of a ViT"))
        assert str(caught.value).startswith("unwell 1.0 cannot build int8 of a ViT: ")
        assert str(caught.value).isprintable()
        assert isinstance(caught.value, ResourceError) == (how in ("killed", "full"))
        assert children() == before

    def test_a_build_can_be_stopped_from_another_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNWELL", "hangs")
        before, stop = children(), threading.Event()
        threading.Timer(1.0, stop.set).start()
        with pytest.raises(EngineError, match="it was stopped"):
            UNWELL.compile(tiny_graph(), SPEC, BuildOptions(stopped=stop.is_set))
        assert children() == before

    def test_no_process_is_one_clear_error_and_leaks_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(ResourceError, match="no process to build in could be started"):
                UNWELL.compile(tiny_graph(), SPEC, BuildOptions())
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_process_that_ends_before_it_has_a_log_is_the_same_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / "python").chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        caplog.set_level(logging.DEBUG, logger="vit_edge.tensorrt")
        with pytest.raises(EngineError, match="the builder ended with status 3"):
            UNWELL.compile(tiny_graph(), SPEC, BuildOptions())

    def test_nothing_beside_it_is_taken_for_a_module_or_a_job(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a folder that somebody else made, and for a graph whose weights have chosen names."""
        monkeypatch.setenv("UNWELL", "raises")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "json.py").write_text("raise SystemExit('taken')")
        hostile = memoryview(b'{"module": "antigravity"}')
        options = BuildOptions(external={"job.json": hostile, "outcome.json": hostile})
        with pytest.raises(EngineError, match="no such tactic"):
            UNWELL.compile(tiny_graph(), SPEC, options)

    def test_a_build_has_a_time_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UNWELL", "hangs")
        before = children()
        with pytest.raises(ResourceError, match=r"took longer than 1\.5 s and was stopped"):
            UNWELL.compile(tiny_graph(), SPEC, BuildOptions(time_limit_s=1.5))
        assert children() == before

    def test_it_ends_with_who_started_it(self, tmp_path: Path) -> None:
        code = f"""
import os, sys
from vit_edge.runtime.backends import BuildOptions
from tests.runtime.backends.test_tensorrt_process import UNWELL
from tests.runtime.backends.tiny import SPEC, tiny_graph
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
UNWELL.compile(tiny_graph(), SPEC, BuildOptions())
"""
        environment = {**os.environ, "UNWELL": "hangs", "TMPDIR": str(tmp_path)}
        root = Path(__file__).parents[3]
        parent = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=root)
        path = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 60
        while not (builder := path.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        while runs(builder[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not runs(builder[0])


@needs_rtx
class TestStopping:
    def test_ctrl_c_stops_a_build(self, bundle_source: Path, interruptible: None) -> None:
        def progress(what: str, done: int, total: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        before = children()
        with pytest.raises(KeyboardInterrupt):
            RTX.compile(*graph(bundle_source), BuildOptions(progress=progress))
        assert children() == before

    def test_what_telling_the_progress_raises_comes_through(self, bundle_source: Path) -> None:
        def progress(what: str, done: int, total: int) -> None:
            raise BrokenPipeError("the reader went away")

        with pytest.raises(BrokenPipeError, match="went away"):
            RTX.compile(*graph(bundle_source), BuildOptions(progress=progress))


@needs_rtx
class TestBuilt:
    def test_the_builder_tells_what_it_compiled(self, bundle_source: Path) -> None:
        built = RTX.compile(*graph(bundle_source), BuildOptions())
        assert len(built.engine) > 100_000
        assert built.peak_bytes > 50 << 20
        summary = plan_of("rtx", built).summary()
        assert (summary.attentions, summary.fused_attentions, summary.unmet) == (4, 4, ())
        assert summary.waits == 0

    @pytest.mark.parametrize(
        ("precision", "operands"), [("fp32", "FLOAT"), ("fp16", "HALF"), ("int8", "INT8")]
    )
    def test_the_parser_tells_what_the_graph_asks(
        self, bundle_source: Path, precision: str, operands: str
    ) -> None:
        products = RTX.compile(*graph(bundle_source, precision), BuildOptions()).products
        by_name = {product.node: product for product in products}
        qkv = by_name["blocks.0.attn.qkv/MatMul"]
        assert qkv == AskedProduct("blocks.0.attn.qkv/MatMul", (operands, operands), True)
        assert not by_name["blocks.3.attn/MatMul"].weights
        linears = [p for p in products if p.weights and p.node.startswith("blocks.")]
        assert {p.operands[1] for p in linears} == {operands}
        assert (len(products), len(linears)) == (26, 16)

    def test_a_graph_that_is_none_is_refused(self, tmp_path: Path) -> None:
        library = RTX._library()  # type: ignore[attr-defined]
        logger, messages = library.Logger(library.Logger.INTERNAL_ERROR), list[str]()
        builder = library.Builder(logger)
        (tmp_path / "x.onnx").write_bytes(b"no graph")
        with pytest.raises(EngineError, match="parser refused"):
            parse_network(library, builder, logger, tmp_path / "x.onnx", messages)
        assert messages


def test_only_the_outermost_phase_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    phases = OutermostPhases(lambda *step: told.append(step))
    phases.started("engine", None, 2)
    phases.started("graph", "engine", 9)
    phases.advanced("graph", 1)
    phases.advanced("engine", 1)
    phases.finished("graph")
    phases.finished("engine")
    assert told == [("engine", 0, 2), ("engine", 1, 2), ("engine", 2, 2)]
