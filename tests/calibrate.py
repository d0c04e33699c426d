"""Calibrates a graph as the pipeline does, without its stages."""

from __future__ import annotations

import onnx_ir as ir

from calibration.collect import Calibration, collect
from export.quantise.sites import find_sites
from runtime.images import ImageSet


def calibrate(model: ir.Model, images: ImageSet, method: str) -> Calibration:
    sites = [site.name for site in find_sites(model.graph)]
    return collect(model, sites, images, method, lambda done, total: None)
