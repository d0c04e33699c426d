"""Builds models and lowers them, each once, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.collapse import Limits
from vit_edge.export.precision import PRECISIONS, Graphs, find_precision
from vit_edge.export.precision.cast import cast_to
from vit_edge.vit.vision_transformer import VisionTransformer

from ...calibrate import calibrate
from .models import (
    Built,
    build,
    digits_preprocess,
    random_model,
    reseeded,
    with_large_stream,
    with_outliers,
)

IMAGES = 16
STREAMS = {"large": 3e4}
ALL_FP16 = "all fp16"
OUTLIERS = "outliers"


class Workshop:
    """Models by name: "digits", trained; a key of `CONFIGS`, with random weights of seed 0;
    `STREAMS`. Another seed or outliers are asked for as "CLIP, 1" and "CLIP, outliers".
    """

    def __init__(self, digits: Callable[[], VisionTransformer]) -> None:
        self._digits = digits
        self.built = cache(self._build)
        self.calibration = cache(self._calibrate)
        self._graphs = cache(self._lower_all)

    def _build(self, name: str) -> Built:
        base, _, change = name.partition(", ")
        if change.isdigit():
            return reseeded(self.built(base), int(change))
        if base == "digits":
            model, preprocess = self._digits(), digits_preprocess()
        else:
            model, preprocess = random_model("plain" if base in STREAMS else base, seed=0)
        if base in STREAMS:
            model = with_large_stream(model, STREAMS[base])
        if change == OUTLIERS:
            model = with_outliers(model)
        return build(model, preprocess, IMAGES)

    def _calibrate(self, name: str, method: str) -> Calibration:
        built = self.built(name)
        return calibrate(built.fp32, built.calibration, method, tuple(PRECISIONS))

    def sound(self, name: str, graph: str, method: str = DEFAULT_METHOD) -> ir.Model:
        """What nobody broke, lowered once: tests that change it clone it."""
        if graph == ALL_FP16:
            return self.lower(name, graph, self.built(name).fp32)
        precision, _, kind = graph.partition(".")
        graphs = self._graphs(name, precision, method)
        return graphs.get(kind or "cpu", graphs["gpu"])

    def _lower_all(self, name: str, precision: str, method: str) -> Graphs:
        return PRECISIONS[precision].lower(self.built(name).fp32, self.calibration(name, method))

    def lower(
        self, name: str, graph: str, fp32: ir.Model, method: str = DEFAULT_METHOD
    ) -> ir.Model:
        """`fp32`, sound or not, in a precision (".gpu": its graph for GPUs), by the calibration of
        the sound model.
        """
        if graph == ALL_FP16:
            lowered = fp32.clone()
            cast_to(lowered.graph, ir.DataType.FLOAT16, lambda node: False)
            return lowered
        precision, _, kind = graph.partition(".")
        graphs = PRECISIONS[precision].lower(fp32, self.calibration(name, method))
        return graphs.get(kind or "cpu", graphs["gpu"])


def limits_of(graph: str) -> Limits:
    return find_precision("fp16" if graph == ALL_FP16 else graph.partition(".")[0]).limits
