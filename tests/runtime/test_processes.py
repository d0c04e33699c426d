"""Engines in forked, spawned and pre-loaded processes: an answer or a clear error, never a hang."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime import Engine, ForkedError
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.process import ProcessSession, keep_in_children

from .backends.rig import Rig, full
from .backends.tiny import tiny_frames, tiny_scores

__all__ = ["full"]
ROOT = Path(__file__).parents[2]
SECONDS = 120
LOAD = """
import os, sys, threading
import numpy as np
from vit_edge import Engine, VitEdgeError
frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)

def answer(engine):
    try:
        return "right" if np.allclose(engine(frames), expected, atol=1e-4) else "wrong"
    except VitEdgeError as error:
        return f"{type(error).__name__}: {error}"

def in_child(what):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        print(what())
        sys.exit()  # ends like any program, with every destructor
    assert os.waitpid(child, 0)[1] == 0

engine = Engine.load(sys.argv[1], "fp32", sys.argv[2])
expected = engine(frames)
"""


def run(code: str, bundle: Path, backend: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD + code, str(bundle), backend],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_forked_child_has_its_own_onnxruntime(bundle_source: Path) -> None:
    """Any number of them, and children of theirs; the parent's engine goes on."""
    code = """
def child():
    first = answer(engine)
    in_child(lambda: answer(engine))
    engine.close()
    return first
in_child(child)
in_child(lambda: answer(engine))
print(answer(engine))
"""
    assert run(code, bundle_source, "onnxruntime") == ["right"] * 4


def test_openvino_says_what_to_do_in_a_forked_child(bundle_source: Path) -> None:
    """Of the parent's engine and of a new one; a child that uses neither ends, too."""
    code = """
in_child(lambda: answer(engine))
def load(*arguments):
    try:
        with Engine.load(sys.argv[1], *arguments) as new:
            return f"{new.info.backend} {answer(new)}, {new.info.not_run['openvino']}"
    except VitEdgeError as error:
        return f"{type(error).__name__}: {error}"
in_child(lambda: load("fp32", "openvino"))
in_child(lambda: load("fp32"))
in_child(lambda: "idle")
print(answer(engine))
"""
    used, new, other, idle, parent = run(code, bundle_source, "openvino")
    assert used.startswith("ForkedError: this engine was loaded by process ")
    assert new.startswith("BackendError: ")
    assert other.startswith("onnxruntime right, OpenVINO ran in process ")
    for message in (used, new, other):
        assert "load it after the fork" in message
        assert "spawn" in message
    assert (idle, parent) == ("idle", "right")


def test_a_stream_does_not_go_on_in_a_child(bundle_source: Path) -> None:
    code = """
stream = engine.stream([frames] * 3)
next(stream)
def go_on():
    try:
        return str(next(stream))
    except VitEdgeError as error:
        return type(error).__name__
in_child(go_on)
print(len(list(stream)))
"""
    assert run(code, bundle_source, "onnxruntime") == ["ForkedError", "2"]


def test_a_fork_beside_running_threads(bundle_source: Path) -> None:
    """Locks that a thread of the parent holds stay locked in the child."""
    code = """
stop = threading.Event()
def work():
    while not stop.is_set():
        engine(frames)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(5): in_child(lambda: answer(engine))
stop.set()
"""
    assert run(code, bundle_source, "onnxruntime") == ["right"] * 5


def _load_and_answer(bundle: str, backend: str, frames: np.ndarray, pipe: Connection) -> None:
    with Engine.load(bundle, "fp32", backend) as engine:
        pipe.send(engine(frames))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_spawned_process_loads_its_own(
    bundle_source: Path, backend: str, digit_frames: np.ndarray
) -> None:
    with Engine.load(bundle_source, "fp32", backend) as engine:
        expected = engine(digit_frames)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        arguments = (str(bundle_source), backend, digit_frames, there)
        child = context.Process(target=_load_and_answer, args=arguments)
        child.start()
        assert here.poll(SECONDS)
        np.testing.assert_allclose(here.recv(), expected, atol=1e-4)
        child.join(SECONDS)
        assert child.exitcode == 0
        with pytest.raises(TypeError, match="send the bundle's path, and load it there"):
            pickle.dumps(engine)


def in_fork(work: Callable[[], Any]) -> Any:
    """Returns what `work` returns or raises in a forked child."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def send() -> None:
        try:
            there.send(work())
        except Exception as error:
            there.send(repr(error))

    child = context.Process(target=send)
    child.start()
    try:
        assert here.poll(SECONDS)
        return here.recv()
    finally:
        child.kill()
        child.join()


def test_cuda_says_what_to_do_in_a_forked_child(full: Rig) -> None:
    frames = tiny_frames(2)
    session = ProcessSession(full.open(), "tensorrt", None)
    np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
    count = len(full.gpu.trace)

    def use() -> tuple[str, int]:
        try:
            session.run(frames)
        except ForkedError as error:
            text = str(error)
        session.close()
        return text, len(full.gpu.trace)

    text, calls = in_fork(use)
    assert "tensorrt does not survive a fork" in text
    assert "spawn" in text
    assert calls == count  # nothing of the parent's GPU is touched
    new = in_fork(full.open)
    assert "ForkedError" in new
    assert "CUDA was started in process" in new
    problem = in_fork(BACKENDS["tensorrt"].run_problem)
    assert "before it forked this one: load it after the fork" in problem
    np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
    session.close()


def test_what_is_not_freed_in_children_is_freed_in_its_own_process() -> None:
    freed: list[int] = []

    class Native:
        def __del__(self) -> None:
            freed.append(os.getpid())

    kept = [keep_in_children(Native())]

    def free() -> list[int]:
        kept.clear()
        return freed

    assert in_fork(free) == []
    assert free() == [os.getpid()]


APP = """
import os
import numpy as np
from vit_edge import Engine, VitEdgeError
engine = Engine.load(os.environ["BUNDLE"], "fp32", os.environ["BACKEND"])
expected = engine(np.zeros((3, 8, 8, 1), np.uint8))
def app(environ, start_response):
    try:
        right = np.allclose(engine(np.zeros((3, 8, 8, 1), np.uint8)), expected, atol=1e-4)
        text = "right" if right else "wrong"
    except VitEdgeError as error:
        text = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed")
@pytest.mark.parametrize(
    ("backend", "expected"), [("onnxruntime", "right"), ("openvino", "ForkedError: this engine")]
)
def test_gunicorn_with_preload(
    bundle_source: Path, tmp_path: Path, backend: str, expected: str
) -> None:
    (tmp_path / "service.py").write_text(APP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--graceful-timeout", "10",
        "--bind", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "service:app",
    ]  # fmt: skip
    own = {"BUNDLE": str(bundle_source), "BACKEND": backend, "PYTHONPATH": f"{ROOT}"}
    paths = os.pathsep.join(filter(None, [own["PYTHONPATH"], os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(command, env={**os.environ, **own, "PYTHONPATH": paths})
    try:
        for _ in range(6):
            assert _get(f"http://127.0.0.1:{port}/").startswith(expected)
        start = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=SECONDS) == 0
        assert time.monotonic() - start < 9  # the workers end by themselves
    finally:
        server.kill()
        server.wait()


def _get(address: str) -> str:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as response:
                return str(response.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
