"""ONNX files of the zoo's models, as PyTorch's two exporters write them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from .models import Entry

DYNAMO, OLDER = "dynamo", "older exporter"
OPSETS = {DYNAMO: 20, OLDER: 17}


def write_onnx(model: nn.Module, entry: Entry, exporter: str, path: Path) -> None:
    """Exports with a dynamic batch; `exporter` is one of `OPSETS`."""
    options: dict[str, object] = {"input_names": ["pixel_values"]}
    options["output_names"] = list(entry.outputs or ("logits",))
    if exporter == DYNAMO:
        batch = ({0: torch.export.Dim("batch")},)
        options |= {"dynamo": True, "dynamic_shapes": batch, "external_data": False}
    else:
        names = [*options["input_names"], *options["output_names"]]  # type: ignore[misc]
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "batch"} for name in names}}
        for module in model.modules():  # timm's: tracing does not get through PyTorch's own
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    example = torch.zeros((2, *entry.shape))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            opset_version=OPSETS[exporter],
            verbose=False,
            **options,  # type: ignore[arg-type]
        )
