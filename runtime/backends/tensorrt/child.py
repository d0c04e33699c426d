"""Process that builds an engine, so that a crash of the library ends no other process.

`process.py` starts it with a folder, which holds `JOB` and the graph, and with a pipe, on
which it reports its progress and its end. It writes `ENGINE` and `OUTCOME` into the folder.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from ...errors import EngineError, InputError
from ...manifest import EngineSpec
from ...schema import decode, encode, printable
from .. import cuda
from ..base import AskedProduct
from .build import BuildRecipe, FullLibrary, build_plan
from .inspect import inspect_engine
from .open import Library, Logger, make_logger

if TYPE_CHECKING:
    import tensorrt as trt

JOB, GRAPH, ENGINE, OUTCOME, LOG = (
    "job.json",
    "graph/model.onnx",
    "engine",
    "outcome.json",
    "log.txt",
)
_LISTING = "Layers:"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class BuildJob:
    """Engine to be built.

    Attributes:
        module: Python module of the library that builds.
        device: The GPU to build on; None where none is needed.
        spec, compute_capabilities, flags, max_aux_streams: See `BuildRecipe`.
        timings: The file of the timing cache; "" for none.
    """

    module: str
    device: int | None
    spec: EngineSpec
    compute_capabilities: tuple[str, ...]
    flags: tuple[str, ...]
    timings: str
    max_aux_streams: int | None

    @property
    def recipe(self) -> BuildRecipe:
        timings = Path(self.timings) if self.timings else None
        capabilities = self.compute_capabilities
        return BuildRecipe(self.spec, capabilities, self.flags, timings, self.max_aux_streams)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job. The listing, which has several lines, lies in a file of its own.

    Attributes:
        error: The reason why there is no engine; "" if there is one.
        bad_input: True if the job itself is at fault.
        products: See `runtime.backends.base.Built`.
        peak_bytes: Likewise.
    """

    error: str
    bad_input: bool
    products: tuple[AskedProduct, ...]
    peak_bytes: int


def main(place: str, pipe: int, parent: int) -> None:
    """Carries out the job in the folder `place`, and closes the pipe when it is done.

    Ends with the process `parent`.
    """
    folder = Path(place)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has already ended
        return
    job = decode(BuildJob, json.loads((folder / JOB).read_text()))
    with os.fdopen(pipe, "w", buffering=1) as reports, (folder / LOG).open("w", buffering=1) as log:
        (folder / OUTCOME).write_text(encode(_carry_out(job, folder, reports, log)))
    os._exit(0)  # what the library does at the end of a process may crash


def _carry_out(job: BuildJob, folder: Path, reports: TextIO, log: TextIO) -> Outcome:
    errors, listings = list[str](), list[str]()
    bad_input, products = False, tuple[AskedProduct, ...]()

    def progress(what: str, done: int, total: int) -> None:
        reports.write(json.dumps([what, done, total]) + "\n")

    try:
        library = cast("FullLibrary", importlib.import_module(job.module))
        logger = _logger(library, errors, listings, log)
        with nullcontext() if job.device is None else cuda.on_device(job.device):
            plan = build_plan(library, logger, folder / GRAPH, job.recipe, progress, errors)
        products = plan.products
        (folder / ENGINE).write_bytes(plan.engine)
        listing = listings[-1] if listings else _inspected(job, library, logger, plan.engine)
        (folder / f"{ENGINE}.txt").write_text(listing)
    except Exception as error:  # the bindings raise RuntimeError, TypeError and their own
        bad_input = isinstance(error, InputError)
        detail = "; ".join([str(error) or type(error).__name__, *errors[:3]])
        return Outcome(one_line(detail)[:500], bad_input, (), _peak_bytes())
    return Outcome("", False, products, _peak_bytes())


def one_line(text: str) -> str:
    """Returns `text` as one line of printable characters."""
    return " ".join(printable(text).split())


def _inspected(job: BuildJob, library: FullLibrary, logger: Logger, engine: bytes) -> str:
    """Returns the inspector's JSON for full TensorRT, which has a GPU here; "" if that fails."""
    if job.device is None or not hasattr(library, "EngineInspector"):
        return ""
    try:
        return inspect_engine(library, logger, engine, job.spec)
    except EngineError:
        return ""  # the engine may still be good; opening it will show what is wrong


def _logger(library: Library, errors: list[str], listings: list[str], log: TextIO) -> Logger:
    """Makes a logger that keeps errors and the listing of layers, and writes the rest to `log`."""

    def pass_on(severity: trt.ILogger.Severity, message: str) -> None:
        if message.lstrip().startswith(_LISTING):
            listings.append(message)
        else:
            log.write(f"{severity.name} {' '.join(message.split())}\n")

    return make_logger(library, errors, pass_on)


def _peak_bytes() -> int:
    """Returns the most memory that this process held; `getrusage` would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
