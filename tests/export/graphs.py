"""Runs graphs and counts their operators, for the tests of passes and precisions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from vit_edge.calibration.collect import Calibration
from vit_edge.export.measure import in_standard_operators
from vit_edge.export.precision import QuantisedPrecision, find_precision
from vit_edge.export.precision.quantised import Quantised, quantise_model


def run(model: ir.Model, frames: np.ndarray) -> np.ndarray:
    """The logits of a graph that the ONNX checker accepts."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    proto = ir.to_proto(in_standard_operators(model))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"images": frames})[0]
    return result


def quantise(precision: str, model: ir.Model, calibration: Calibration) -> Quantised:
    """The exact and the quantised graph of a quantised precision."""
    known = find_precision(precision)
    assert isinstance(known, QuantisedPrecision)
    return quantise_model(model, calibration, known.scheme)


def count(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / (expected.max() - expected.min()))
