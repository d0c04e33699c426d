"""One model through one door: what became of it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit_edge.export.doors.calling import name_outputs
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision.quantised import FAST
from vit_edge.export.progress import Display, Update, ignore
from vit_edge.export.report import Report
from vit_edge.runtime.backends.onnxruntime import load_library
from vit_edge.runtime.errors import BackendError, InputError, VitEdgeError, first_line
from vit_edge.runtime.metrics import TimingBudget
from vit_edge.vit.hints import ModelHints

from .models import Entry, build, normalise
from .onnx_files import DYNAMO, OLDER, write_onnx
from .pictures import read_images, write_images

SHIPPED, HELD_BACK, REFUSED, CRASHED = "shipped", "held back", "refused", "crashed"
TIME_LIMIT, NO_FILE = "time limit", "no file"
"""Outcomes. `CRASHED` is an error that the export did not expect; `NO_FILE`, that PyTorch's
exporter failed.
"""
_ONE_CALL = TimingBudget(runs=1, seconds=0.0, most_runs=1)
_BATCH, _FLAT = 8, 2
MODULE = "module"


@dataclass(frozen=True)
class Settings:
    """Precisions and targets that are asked of every model."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """Outcome of a trial.

    Attributes:
        error: Why it did not ship, or what missed its budget.
        fp32_error: Worst difference of the exported fp32 graph from PyTorch, relative to the range
            of the outputs.
        precisions: By name: the problem ("" for none), the shares of the multiplications that it
            quantised, what stayed in higher precision, and its cosine.
        engines, asked: How many were built, of those that were asked for.
        notes: What the export left as it is, and why.
    """

    name: str
    library: str
    door: str
    outcome: str
    error: str = ""
    fp32_error: float | None = None
    precisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    engines: int = 0
    seconds: float = 0.0
    notes: Sequence[str] = ()
    asked: int = 0


class _Silent(Display):
    """Keeps the notes, and shows nothing."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        yield ignore

    def note(self, text: str) -> None:
        self.notes.append(text)

    def cached(self, name: str) -> None:
        pass


class _ExporterError(Exception):
    """Raised when PyTorch's exporter fails."""


Door = Callable[[Entry, Path, ExportRequest, Display], tuple[Report, float | None]]
"""Exports a model; returns the report, and the error of what it read against PyTorch."""


def try_model(entry: Entry, door: str, settings: Settings, folder: Path) -> Record:
    """Exports `entry` and says what became of it; raises nothing.

    Args:
        entry: The model.
        door: A key of `DOORS`.
        settings: What to ask for.
        folder: For images, ONNX files and bundles; ONNX files are used again.
    """
    torch.set_num_threads(1)
    start, display = time.perf_counter(), _Silent()
    out = folder / "bundles" / f"{entry.library}-{entry.name}-{door.replace(' ', '-')}"
    calibration, evaluation = write_images(folder, entry.size)
    request = ExportRequest(
        out=out,
        calibration=str(calibration),
        evaluation=str(evaluation),
        precisions=settings.precisions,
        targets=settings.targets or ("onnxruntime",),
        facts=ModelHints(mean=entry.mean, std=entry.std),
        effort=FAST,
        max_batch=4,
        timing=_ONE_CALL,
    )
    asked = len(settings.precisions) * len(settings.targets)
    record = Record(entry.name, entry.library, door, CRASHED, asked=asked)
    try:
        report, error = DOORS[door](entry, folder, request, display)
        record = _read(
            replace(record, outcome=SHIPPED if report.good else HELD_BACK), report, error
        )
    except _ExporterError as failure:
        record = replace(record, outcome=NO_FILE, error=str(failure))
    except InputError as failure:
        record = replace(record, outcome=REFUSED, error=str(failure))
    except (BackendError, VitEdgeError) as failure:
        record = replace(record, error=str(failure))
    except Exception as failure:
        frames = traceback.extract_tb(failure.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        error_text = f"{type(failure).__name__} at {place}: {failure}"[:500]
        if any(frame.name == "build" and "zoo" in frame.filename for frame in frames):
            record = replace(record, outcome=NO_FILE, error=f"its library refuses it: {error_text}")
        else:
            record = replace(record, error=error_text)
    return replace(record, seconds=round(time.perf_counter() - start, 1))


def _read(record: Record, report: Report, error: float | None) -> Record:
    precisions, errors = {}, [] if error is None else [error]
    for result in report.results:
        name, raised = result["precision"], result["raised"]
        graphs = list(result["graphs"].values())
        precisions[name] = {
            "problem": result["problem"] or "",
            "fallback": list(raised["units"]) if raised else [],
            "quantised": next(iter(result["quantised"].values()), {}),
            "cosine": min(graph["cosine"] for graph in graphs),
        }
        if name == "fp32":
            errors.append(max(graph["logit_error"] for graph in graphs))
    return replace(
        record,
        error="; ".join(report.problems),
        fp32_error=max(errors, default=None),
        precisions=precisions,
        engines=len(report.engines),
        notes=report.notes,
    )


def _from_file(exporter: str) -> Door:
    def open_door(
        entry: Entry, folder: Path, request: ExportRequest, display: Display
    ) -> tuple[Report, float | None]:
        path = folder / "onnx" / f"{entry.library}-{entry.name}-{exporter.replace(' ', '-')}.onnx"
        facts = _file(entry, exporter, path, Path(str(request.evaluation)))
        kinds = {name: _kind(rank) for name, rank in facts["ranks"].items()}
        return export_bundle(replace(request, onnx=path, outputs=kinds), display), facts["error"]

    return open_door


def _file(entry: Entry, exporter: str, path: Path, evaluation: Path) -> dict[str, Any]:
    """Writes the ONNX file, once; returns its error against PyTorch, and ranks of its outputs."""
    about = path.with_suffix(".json")
    if not about.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = build(entry)
        try:
            write_onnx(model, entry, exporter, path)
            images = normalise(read_images(evaluation), entry)
            about.write_text(json.dumps(_compare(path, model, images)))
        except Exception as failure:  # exporters raise whatever they stumble over
            reason = f"{type(failure).__name__}: {first_line(failure)}"[:300]
            about.write_text(json.dumps({"failure": reason}))
    facts = json.loads(about.read_text())
    if "failure" in facts:
        raise _ExporterError(facts["failure"])
    return facts  # type: ignore[no-any-return]


def _compare(path: Path, model: nn.Module, images: NDArray[np.float32]) -> dict[str, Any]:
    """Returns the worst difference over all outputs, relative to the range of each, and ranks."""
    session = load_library().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, worst = session.get_inputs()[0].name, 0.0
    names, ranks = [output.name for output in session.get_outputs()], dict[str, int]()
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        with torch.inference_mode():
            results = model(torch.from_numpy(batch))
        expected = results if isinstance(results, tuple) else (results,)
        results = session.run(None, {name: batch})
        for output, ours, theirs in zip(names, results, expected, strict=True):
            right, ranks[output] = theirs.numpy(), ours.ndim
            worst = max(worst, float(np.abs(ours - right).max() / max(np.ptp(right), 1e-30)))
    return {"error": worst, "ranks": ranks}


def _from_memory(
    entry: Entry, folder: Path, request: ExportRequest, display: Display
) -> tuple[Report, float | None]:
    """The module itself; its reference is PyTorch."""
    model = build(entry)
    with torch.inference_mode():
        named = name_outputs(model(torch.zeros((2, *entry.shape)))).tensors
    kinds = {name: _kind(value.ndim) for name, value in named.items()}
    facts = replace(request.facts, img_size=(entry.size, entry.size))
    return export_bundle(replace(request, model=model, facts=facts, outputs=kinds), display), None


def _kind(rank: int) -> str | None:
    """Numbers for what is flat: with random weights classes and neighbours mean nothing."""
    return "value" if rank == _FLAT else None


DOORS: dict[str, Door] = {
    MODULE: _from_memory,
    DYNAMO: _from_file(DYNAMO),
    OLDER: _from_file(OLDER),
}


def encode(record: Record) -> str:
    """Returns the record as a line of JSON."""
    return json.dumps(asdict(record))


def decode(line: str) -> Record:
    """Reads what `encode` wrote."""
    fields = json.loads(line)
    return Record(**{**fields, "notes": tuple(fields["notes"])})
