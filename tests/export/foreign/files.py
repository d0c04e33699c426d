"""Writes ONNX files as other people's exporters do."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vit_edge.vit.hints import ModelHints

FACTS = ModelHints(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What no file says, and its user has to."""


@dataclass(frozen=True)
class Exporter:
    """PyTorch's older exporter or its newer one; a fixed batch of 1 or a dynamic one."""

    newer: bool
    opset: int
    dynamic: bool

    def __str__(self) -> str:
        kind = "dynamo" if self.newer else "torchscript"
        return f"{kind}-{self.opset}-{'dynamic' if self.dynamic else 'fixed'}"


OLD_11 = Exporter(newer=False, opset=11, dynamic=False)
OLD_14 = Exporter(newer=False, opset=14, dynamic=False)
OLD_14_DYNAMIC = Exporter(newer=False, opset=14, dynamic=True)
OLD_17_DYNAMIC = Exporter(newer=False, opset=17, dynamic=True)
NEW_18 = Exporter(newer=True, opset=18, dynamic=False)
NEW_20_DYNAMIC = Exporter(newer=True, opset=20, dynamic=True)
NEW_23_DYNAMIC = Exporter(newer=True, opset=23, dynamic=True)


class Output(nn.Module):
    """One field of what a model of transformers returns."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, pixel_values: Tensor) -> Tensor:
        result: Tensor = getattr(self.model(pixel_values=pixel_values), self.field)
        return result


def write(model: nn.Module, path: Path, exporter: Exporter, shape: tuple[int, ...]) -> Path:
    """Exports for images `[B, *shape]`, weights beside the file where the exporter likes that."""
    example = torch.zeros((2 if exporter.dynamic else 1, *shape))
    options: dict[str, object] = {"opset_version": exporter.opset, "dynamo": exporter.newer}
    if exporter.dynamic and exporter.newer:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif exporter.dynamic:
        names = {"input_names": ["x"], "output_names": ["y"]}
        options |= {**names, "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (example,), str(path), verbose=False, **options)  # type: ignore[arg-type]
    return path
