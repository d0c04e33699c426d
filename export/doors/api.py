"""`export_model`: the door of Python for any module in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vit_edge.export.pipeline import export_and_measure
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision import DEFAULT_PRECISIONS
from vit_edge.export.precision.quantised import DEFAULT_EFFORT
from vit_edge.export.progress import Display
from vit_edge.export.report import MARKDOWN, Report, report_folder
from vit_edge.export.user_code import Function, metric_of
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import Accuracy
from vit_edge.runtime.outputs import KINDS
from vit_edge.runtime.preprocess import MODES, Preprocess
from vit_edge.runtime.tools.images import ImageSet, from_array
from vit_edge.vit.hints import ModelHints

Data = (
    str
    | os.PathLike[str]
    | NDArray[np.uint8]
    | tuple[NDArray[np.uint8], NDArray[np.integer[Any]] | Sequence[int]]
)
"""Images uint8 `[N, H, W, C]`, a pair of them and labels int `[N]`, or data as the command line
names it: a folder, an `.npz` file, "samples", "digits".
"""

_PREPROCESS = ("size", "mean", "std", "interpolation", "crop", "crop_mode")


@dataclass(frozen=True)
class ExportedPrecision:
    """A precision's outcome.

    Attributes:
        accuracy: By the kind of backend, "cpu" or "gpu", and the name of the output, what was
            measured.
        problem: The reason why it is not good, in words; None if it met its budget.
        fallback: Layers left in higher precision so that it did.
        merged: Tokens that each block merges; none where nothing is merged.
    """

    accuracy: Mapping[str, Mapping[str, Accuracy]]
    problem: str | None
    fallback: tuple[str, ...]
    merged: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExportedModel:
    """Outcome of `export_model`.

    Attributes:
        path: The bundle; `vit_edge.Engine.load(path)` opens it.
        shipped: True if every precision met its budget; otherwise nothing was written to `path`,
            and what was there before is still there.
        precisions: Each precision's outcome.
        notes: What was read, assumed and left out, in words.
        report: The report in Markdown, which is always written.
    """

    path: Path
    shipped: bool
    precisions: Mapping[str, ExportedPrecision]
    notes: tuple[str, ...]
    report: Path

    @property
    def problems(self) -> dict[str, str]:
        """The reasons why precisions are not good; empty if all are."""
        return {name: p.problem for name, p in self.precisions.items() if p.problem is not None}


def export_model(
    model: nn.Module,
    out: str | os.PathLike[str],
    *,
    calibration: Data | None = None,
    evaluation: Data | None = None,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    targets: Sequence[str] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    outputs: Mapping[str, str | None] | None = None,
    labels: Sequence[str] | None = None,
    metric: Function | str | None = None,
    merge: str | int | Sequence[int] | None = None,
    max_drop: float | None = None,
    effort: str = DEFAULT_EFFORT,
    name: str | None = None,
) -> ExportedModel:
    """Exports a module to a bundle of proven engines, as `vit-edge export` does; it is left as it
    is.

    Args:
        model: Takes normalised images float32 `[B, C, H, W]`; returns a tensor, a tuple, a mapping
            or a ModelOutput. It runs in fp32, in eval mode, on the CPU.
        out: The bundle's folder, which is replaced in whole.
        calibration: Images that tell the quantiser which numbers flow; None: part of `evaluation`,
            or "samples".
        evaluation: Images that judge the result, perhaps with labels; None: the rest of
            `calibration`.
        precisions: As on the command line: "fp32", "fp16", "int8", ...
        targets: Backends to build engines for, as "tensorrt-rtx"; None: all that build here.
        preprocess: The way from an image to the model's input: a `Preprocess`, or a mapping with
            `mean` and `std` on the 0-1 scale, and `size` (a side, or height and width),
            `interpolation`, `crop` and `crop_mode` where they matter. None: as the model says.
        outputs: Kinds by name of the outputs to export, as `{"depth": "map"}`, None for a kind that
            is to be found; the others are left out. None: all outputs.
        labels: Names of the classes.
        metric: A measure of your own over all evaluation images, (outputs by name, labels or None)
            -> number, higher is better; or "FILE.py:FUNCTION".
        merge: Merges similar tokens in a merged form of each precision that has one, "int8" and
            "fp16": "auto" for as many as the budget allows, a number for that many in every block,
            or a list of those of each block. None: merges none.
        max_drop: Top-1 drop that is allowed, in percentage points; of a `metric`, how much lower it
            may be.
        effort: "fast" (builds each engine once and asks less of the quantiser), "default", or
            "thorough" (divides the inputs of more quantised layers, which is nearer to PyTorch and
            costs a multiplication for each).
        name: The bundle's name; None: the class of the model.

    Raises:
        InputError: for a model, images or an option that cannot be used, saying why.
        BackendError: if engines are asked for that cannot be built here.
    """
    first, second = _read_data(calibration, evaluation)
    request = ExportRequest(
        model=model,
        name=name,
        facts=_facts(preprocess, labels),
        outputs=_kinds(outputs),
        metric=metric_of(metric) if callable(metric) else metric,
        calibration=first,
        evaluation=second,
        precisions=_words(precisions, "precisions"),
        targets=None if targets is None else _words(targets, "targets"),
        out=Path(out),
        merge=merge,
        max_drop=max_drop,
        effort=effort,
    )
    with torch.autocast("cpu", enabled=False):  # the reference is in fp32, wherever this is called
        report, results = export_and_measure(request, Display())
    return ExportedModel(
        path=Path(out),
        shipped=report.good,
        precisions={
            result.name: ExportedPrecision(
                {kind: graph.accuracy for kind, graph in result.graphs.items()},
                result.problem,
                result.fallback.layers if result.fallback else (),
                result.merging.tokens if result.merging else (),
            )
            for result in results
            if not result.left_out
        },
        notes=(*report.notes, *report.merging),
        report=_report_file(report),
    )


def _report_file(report: Report) -> Path:
    return report_folder(Path(report.out)) / MARKDOWN


def _words(values: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{name} is {values!r}: give a list of names")
    return tuple(values)


def _facts(preprocess: object, labels: Sequence[str] | None) -> ModelHints:
    names = None if labels is None else _words(labels, "labels")
    if preprocess is None:
        return ModelHints(labels=names)
    if isinstance(preprocess, Preprocess):
        fields = {f: getattr(preprocess, f) for f in _PREPROCESS if f != "size"}
        return ModelHints(img_size=preprocess.shape[:2], labels=names, **fields)
    if not isinstance(preprocess, Mapping):
        raise InputError(
            f"preprocess is a {type(preprocess).__name__}: give a vit_edge.Preprocess or a mapping"
        )
    unknown = [str(key) for key in preprocess if key not in _PREPROCESS]
    if unknown:
        raise InputError(
            f"preprocess has the unknown {', '.join(unknown)}: it takes {', '.join(_PREPROCESS)}"
        )
    try:
        size, crop = preprocess.get("size"), preprocess.get("crop")
        return ModelHints(
            img_size=None if size is None else _size(size),
            mean=_numbers(preprocess.get("mean")),
            std=_numbers(preprocess.get("std")),
            interpolation=preprocess.get("interpolation"),
            crop=None if crop is None else float(crop),
            crop_mode=preprocess.get("crop_mode"),
            labels=names,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"preprocess: {error}") from None


def _size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in pair):
        raise InputError(f"preprocess: size {value!r} is neither a side nor (height, width)")
    return pair


def _numbers(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) if isinstance(value, (int, float)) else tuple(float(v) for v in value)


def _kinds(outputs: object) -> dict[str, str | None]:
    if outputs is None:
        return {}
    if not isinstance(outputs, Mapping):
        raise InputError(f"outputs is {outputs!r}: give a mapping of names to kinds")
    for name, kind in outputs.items():
        if not isinstance(name, str) or kind not in (None, *KINDS):
            raise InputError(
                f"outputs: unknown kind {kind!r} of {name}: choose from {', '.join(KINDS)}"
            )
    return dict(outputs)


def _read_data(
    calibration: Data | None, evaluation: Data | None
) -> tuple[str | ImageSet | None, str | ImageSet | None]:
    """Both sets. The same images for both are given once, so that they are split."""
    one, other = _data(calibration, "calibration"), _data(evaluation, "evaluation")
    if isinstance(one, ImageSet) and isinstance(other, ImageSet):
        first, second = (next(images.batches(len(images))) for images in (one, other))
        if np.array_equal(first, second):
            return None, one if other.labels is None else other
    return one, other


def _data(data: Data | None, name: str) -> str | ImageSet | None:
    """Images in memory as an `ImageSet`, anything else as the command line names it."""
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        return str(os.fspath(data))
    images, labels = _pair(data)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        array = isinstance(images, np.ndarray)
        seen = f"{images.dtype} {list(images.shape)}" if array else f"a {type(images).__name__}"
        raise InputError(
            f"{name} is {seen}: give images uint8 [N, H, W, C], a pair of images and labels, a "
            "folder or the name of a data set"
        )
    if not len(images) or images.shape[3] not in MODES:
        raise InputError(f"{name} is {list(images.shape)}: give N > 0 images [N, H, W, 1 or 3]")
    if labels is None:
        return from_array(f"{name} images in memory", images, None)
    numbers = np.asarray(labels)
    if numbers.shape != (len(images),) or numbers.dtype.kind not in "iu":
        raise InputError(
            f"{name}'s labels are {numbers.dtype} {list(numbers.shape)}: give int [{len(images)}]"
        )
    return from_array(f"{name} images in memory", images, numbers.astype(np.int64))


def _pair(data: Any) -> tuple[Any, Any]:
    """Images and labels, or None for these."""
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    return (data[0], data[1]) if pair else (data, None)
