"""PyTorch to ONNX for any module, by whichever of torch's exporters can do it."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from vit_edge.export.foreign.evaluate import OnnxRunner
from vit_edge.export.passes import SCOPES
from vit_edge.runtime.errors import InputError, first_line
from vit_edge.runtime.tools.display import progress_bar

from .calling import ImageCall

IMAGES = "images"
_NEW_OPSET, _OLD_OPSET = 20, 17
_MAX_ERROR = 1e-3
"""Of an output's range, as fp32's budget: an export that is further off is wrong."""
_LEAST_RANGE, _TINY = 0.1, 1e-6
"""The least range that errors are compared with, as a part of the largest number, and at all."""


@dataclass(frozen=True)
class Exported:
    """An ONNX graph: float32 `[B, C, H, W]` in, the module's outputs out.

    Attributes:
        exporter: The exporter that wrote it, in words.
        notes: Exporters that failed before, and why.
    """

    model: ir.Model
    exporter: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Exporter:
    """One of torch's exporters, with a batch that is dynamic or 1."""

    name: str
    dynamo: bool
    dynamic: bool

    def __str__(self) -> str:
        return self.name + ("" if self.dynamic else ", batch 1")


EXPORTERS = (
    Exporter("torch's dynamo exporter", dynamo=True, dynamic=True),
    Exporter("torch's older exporter", dynamo=False, dynamic=True),
    Exporter("torch's dynamo exporter", dynamo=True, dynamic=False),
    Exporter("torch's older exporter", dynamo=False, dynamic=False),
)
"""In the order in which they are tried; a batch of 1 is made dynamic afterwards."""


def export_module(call: ImageCall, shape: tuple[int, int, int]) -> Exported:
    """Exports the module for images `[channels, height, width]`; each graph is compared with it.

    Raises:
        InputError: if no exporter can, with the first line of each one's reason.
    """
    reasons: dict[str, str] = {}
    for exporter in EXPORTERS:
        try:
            with progress_bar("export to ONNX"), _quiet():
                model = _export(call, shape, exporter)
            _compare(call, model, shape, exporter)
        except Exception as error:  # exporters raise whatever they stumble over
            reasons[str(exporter)] = _cause(error)
            continue
        notes = [f"{name} failed: {reason}" for name, reason in reasons.items()]
        return Exported(model, str(exporter), tuple(notes))
    each = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise InputError(
        f"torch cannot export the model to ONNX ({each}): take out of `forward` what depends on "
        "the values of tensors, or write the ONNX file by other means and use --onnx"
    )


def _export(call: ImageCall, shape: tuple[int, int, int], exporter: Exporter) -> ir.Model:
    example = torch.zeros((2 if exporter.dynamic else 1, *shape))
    names = list(call.names)
    if exporter.dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if exporter.dynamic else None
        program = torch.onnx.export(
            call, (example,), dynamo=True, opset_version=_NEW_OPSET, dynamic_shapes=shapes,
            input_names=[IMAGES], output_names=names, verbose=False,
        )  # fmt: skip
        assert program is not None
        model = program.model
    else:
        axes = {name: {0: "batch"} for name in (IMAGES, *names)}
        with tempfile.TemporaryDirectory(prefix="vit-edge-") as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                call, (example,), path, dynamo=False, opset_version=_OLD_OPSET, verbose=False,
                dynamic_axes=axes if exporter.dynamic else None,
                input_names=[IMAGES], output_names=names,
            )  # fmt: skip
            model = ir.load(path)
            ir.external_data.load_to_model(model)
    for node in model.graph.all_nodes():  # the rest are lines of files of this machine
        scopes = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
    return model


def _compare(
    call: ImageCall, model: ir.Model, shape: tuple[int, int, int], exporter: Exporter
) -> None:
    """Raises InputError if the graph gives other outputs than the module."""
    run, generator = OnnxRunner(model), torch.Generator().manual_seed(1)
    for batch in (1, 3) if exporter.dynamic else (1,):
        images = torch.rand((batch, *shape), generator=generator) * 2 - 1
        with torch.inference_mode():
            expected = call(images)
        outputs = run(images.numpy())
        for name, value in zip(call.names, expected, strict=True):
            largest = float(value.abs().max())
            span = max(float(value.max() - value.min()), _LEAST_RANGE * largest, _TINY)
            if outputs[name].shape != tuple(value.shape):
                raise InputError(f"{name} is {list(outputs[name].shape)} for {batch} images")
            error = float(np.abs(outputs[name] - value.numpy()).max()) / span
            if not error <= _MAX_ERROR:
                raise InputError(f"its graph gives another {name}, by {error:.1e} of its range")


def _cause(error: BaseException) -> str:
    """First line of the innermost reason: what is around it says which step of many it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print and warn of packages and deprecations that no user can act on."""
    names = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
