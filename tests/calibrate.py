"""Calibrates a graph as the pipeline does, without its stages."""

from __future__ import annotations

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration, collect
from vit_edge.calibration.observers import Origin
from vit_edge.export.precision import find_precision, tensors_to_observe
from vit_edge.runtime.tools.images import ImageSet

ORIGIN = Origin("0" * 64, "1" * 64)


def calibrate(
    model: ir.Model, images: ImageSet, method: str, precisions: tuple[str, ...] = ("int8",)
) -> Calibration:
    """What the precisions of these names need to know of `model`."""
    tensors = tensors_to_observe(model.graph, map(find_precision, precisions))
    return collect(model, tensors, images, method, ORIGIN, lambda done, total: None)
