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
from contextlib import ExitStack
from pathlib import Path

from ...errors import EngineError, InputError, ResourceError, engine_error
from ...schema import decode, encode
from ..base import BuildOptions, Built, no_scratch, write_out
from .child import ENGINE, GRAPH, JOB, LOG, OUTCOME, BuildJob, Outcome, main, one_line

_log = logging.getLogger("vit_edge.tensorrt")

_SECONDS_TO_NOTICE, _SECONDS_TO_END = 0.25, 60.0
_START = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from {main.__module__} import main
main(sys.argv[1], int(sys.argv[2]), int(sys.argv[4]))
"""


class _DeadlineError(Exception):
    """Raised at the time limit."""


def build_in_child(job: BuildJob, onnx: bytes, options: BuildOptions) -> Built:
    """Builds an engine. Whatever ends this call ends the child too.

    Raises:
        EngineError: if the library refuses the graph or crashes, or if the build was stopped.
        ResourceError: if it takes longer than `options.time_limit_s`, memory runs out, or no
            process could be started.
        InputError: if the library does not know a GPU of the job.
        Whatever `options.progress` raises.
    """
    with ExitStack() as stack:
        try:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-edge-build-"))
            folder = Path(name)
            (folder / GRAPH).parent.mkdir()  # its own: bundles choose the names of weight files
            write_out(folder / GRAPH, onnx, options.external)
            (folder / JOB).write_text(encode(job))
        except OSError as error:
            raise no_scratch(error) from None
        status = _run(folder, options)
        _pass_on_log(folder / LOG)
        try:
            outcome = decode(Outcome, json.loads((folder / OUTCOME).read_text()))
            if not outcome.error:
                listing = (folder / f"{ENGINE}.txt").read_text()
                engine = (folder / ENGINE).read_bytes()
                return Built(engine, listing, outcome.products, outcome.peak_bytes)
        except (OSError, ValueError, RecursionError):  # it ended before it had written everything
            words = _last_words(folder, crashed=status < 0)
            message = f"the builder {_how_it_ended(status)}{words}"
            kind = ResourceError if status == -signal.SIGKILL else engine_error
            raise kind(message) from None
    raise (InputError if outcome.bad_input else engine_error)(outcome.error)


def _run(folder: Path, options: BuildOptions) -> int:
    """Starts the child and follows it to its end; returns its exit status."""
    reading, writing = os.pipe()
    arguments = [str(folder), str(writing), json.dumps(sys.path), str(os.getpid())]
    try:
        try:
            child = _start(arguments, writing, folder / "output.txt")
        finally:
            os.close(writing)
        try:
            _follow(reading, options, time.monotonic() + options.time_limit_s)
            return child.wait(timeout=_SECONDS_TO_END)
        except (_DeadlineError, subprocess.TimeoutExpired):
            limit = options.time_limit_s
            raise ResourceError(f"it took longer than {limit:g} s and was stopped") from None
        finally:
            child.kill()
            child.wait()
    finally:
        os.close(reading)


def _start(arguments: list[str], pipe: int, output: Path) -> subprocess.Popen[bytes]:
    """Starts the child isolated (-I), so that no file in the working directory shadows a module."""
    command = [sys.executable, "-I", "-c", _START, *arguments]
    try:
        with output.open("wb") as stream:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(pipe,),
                start_new_session=True,  # only this process gets a terminal's Ctrl-C, and stops it
            )
    except OSError as error:
        raise ResourceError(f"no process to build in could be started ({error})") from None


def _follow(pipe: int, options: BuildOptions, deadline: float) -> None:
    """Reports the child's progress until it closes its end of the pipe.

    Raises:
        _DeadlineError: at the deadline.
        EngineError: if the build was stopped.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if options.stopped():
                raise EngineError("it was stopped")
            if not selector.select(_SECONDS_TO_NOTICE):
                if time.monotonic() > deadline:
                    raise _DeadlineError
                continue
            received = os.read(pipe, 1 << 16)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            if options.progress is not None:
                for line in lines:
                    options.progress(*json.loads(line))


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    if -status == signal.SIGKILL:
        return "was killed: most likely the memory did not suffice"
    return f"crashed ({signal.Signals(-status).name})"


def _pass_on_log(path: Path) -> None:
    """Passes the library's log on to `logging`, if debug messages are wanted."""
    if _log.isEnabledFor(logging.DEBUG) and path.exists():  # the child may end before it has a log
        for line in path.read_text(errors="replace").splitlines():
            _log.debug("%s", line)


def _last_words(folder: Path, *, crashed: bool) -> str:
    """Returns the last line that the child wrote, in its log or in a Python traceback."""
    names = (LOG, "output.txt") if crashed else ("output.txt", LOG)
    for name in names:
        path = folder / name
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        said = [one_line(line) for line in lines if line.strip()]
        if said:
            return f"; the last that it said: {said[-1][:200]}"
    return ""
