"""Builds an engine in a child process: some valid graphs crash the library, and Python's Ctrl-C
never reaches native code.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..errors import EngineError, InputError
from ..schema import decode, encode
from .base import BuildOptions, Built, Progress
from .external import write_out
from .tensorrt_child import ENGINE, GRAPH, JOB, LOG, OUTCOME, Job, Outcome, main

_log = logging.getLogger("vit_edge.tensorrt")

_START = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from {main.__module__} import main
main(sys.argv[1], int(sys.argv[2]), int(sys.argv[4]))
"""


def build_in_child(job: Job, onnx: bytes, options: BuildOptions) -> Built:
    """Builds an engine. Whatever ends this call ends the child too.

    Raises:
        EngineError: if the library refuses the graph, crashes, or takes longer than
            `options.time_limit_s`.
        InputError: if the library does not know a GPU of the job.
        Whatever `options.progress` raises.
    """
    with tempfile.TemporaryDirectory(prefix="vit-edge-build-") as name:
        folder = Path(name)
        (folder / JOB).write_text(encode(job))
        write_out(folder / GRAPH, onnx, options.external)
        _run(folder, options)
        outcome = decode(Outcome, json.loads((folder / OUTCOME).read_text()))
        _pass_on_log(folder / LOG)
        if outcome.error:
            raise (InputError if outcome.bad_input else EngineError)(outcome.error)
        listing = (folder / f"{ENGINE}.txt").read_text()
        engine = (folder / ENGINE).read_bytes()
        return Built(engine, listing, outcome.products, outcome.peak_bytes)


def _run(folder: Path, options: BuildOptions) -> None:
    """Starts the child and follows it to its end."""
    reading, writing = os.pipe()
    arguments = [str(folder), str(writing), json.dumps(sys.path), str(os.getpid())]
    command = [sys.executable, "-c", _START, *arguments]
    with (folder / "output.txt").open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,  # Ctrl-C in a terminal is for us alone, who stop it
        )
    try:
        os.close(writing)
        _follow(reading, options.progress, time.monotonic() + options.time_limit_s)
        status = child.wait(timeout=60)
    except TimeoutError:
        limit = options.time_limit_s
        raise EngineError(f"it took longer than {limit:g} s and was stopped") from None
    finally:
        os.close(reading)
        child.kill()
        child.wait()
    if status != 0:
        raise EngineError(f"the builder {_how_it_ended(status)}{_last_words(folder)}")


def _follow(pipe: int, progress: Progress | None, deadline: float) -> None:
    """Tells the child's progress until it closes its end of the pipe.

    Raises:
        TimeoutError: at the deadline.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            received = os.read(pipe, 1 << 16)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            if progress is not None:
                for line in lines:
                    progress(*json.loads(line))


def _how_it_ended(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    if -status == signal.SIGKILL:
        return "was killed: most likely the memory did not suffice"
    return f"crashed ({signal.Signals(-status).name})"


def _pass_on_log(path: Path) -> None:
    """Gives what the library said to `logging`, where somebody wants to know."""
    if _log.isEnabledFor(logging.DEBUG):
        for line in path.read_text(errors="replace").splitlines():
            _log.debug("%s", line)


def _last_words(folder: Path) -> str:
    """The last line that the child wrote, of its log or of what went wrong in Python."""
    for name in ("output.txt", LOG):
        path = folder / name
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        if said:
            _pass_on_log(path)
            return f"; the last that it said: {' '.join(said[-1].split())[:200]}"
    return ""
