"""Calibrates a graph as the pipeline does, without its stages."""

from __future__ import annotations

import onnx_ir as ir

from calibration.collect import Calibration, collect
from export.precision import find_precision, tensors_to_observe
from runtime.images import ImageSet


def calibrate(
    model: ir.Model, images: ImageSet, method: str, precisions: tuple[str, ...] = ("int8",)
) -> Calibration:
    """What the precisions of these names need to know of `model`."""
    tensors = tensors_to_observe(model.graph, map(find_precision, precisions))
    return collect(model, tensors, images, method, lambda done, total: None)
