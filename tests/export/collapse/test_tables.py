"""Calibration tables of other weights, forced through: what they do to the numbers is found."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from tests.specs import compare_logits
from vit_edge.export.collapse import Fault, find_faults
from vit_edge.export.collapse.limits import LOCAL
from vit_edge.export.measure import predict
from vit_edge.export.precision.int8 import INT8

from .edit import change_input
from .models import Built
from .workshop import Workshop, limits_of

HARM = 2.0


def checked(lowered: ir.Model, sound: ir.Model, built: Built) -> list[Fault]:
    """The faults found on the way; that they do harm is checked first."""
    errors = [
        compare_logits(predict(g, built.images), built.reference, None).rms_error
        for g in (lowered, sound)
    ]
    assert errors[0] >= HARM * errors[1], errors
    faults = find_faults(
        lowered, built.fp32, built.images, built.reference, built.scale, INT8().limits
    )
    return [fault for fault in faults if fault.check == LOCAL]


def with_larger_norms(built: Built, factor: float) -> Built:
    """Fine-tuned since: LayerNorms give out more, and their Linears take less of it."""
    fp32 = built.fp32.clone()
    for norm in [n for n in fp32.graph if n.op_type == "LayerNormalization"]:
        readers = [user for user in norm.outputs[0].consumers() if user.op_type == "MatMul"]
        for index in (1, 2) if readers else ():
            change_input(fp32, norm, index, lambda x: x * factor)
        for reader in readers:
            change_input(fp32, reader, 1, lambda w: w / factor)
    return Built(
        built.model, built.preprocess, fp32, built.calibration, built.images, built.reference
    )


@pytest.mark.parametrize(
    ("name", "other", "method"),
    [
        ("digits, outliers", "digits", "minmax"),
        ("CLIP, outliers", "CLIP", "percentile"),
        ("digits", "digits, outliers", "minmax"),
        ("CLIP", "CLIP, outliers", "mse"),
        ("average", "average, outliers", "entropy"),
        ("CLIP", "CLIP, outliers", "search"),
    ],
)
def test_table_of_another_model(name: str, other: str, method: str, workshop: Workshop) -> None:
    built = workshop.built(name)
    lowered = INT8().lower(built.fp32, workshop.calibration(other, method))["cpu"]
    assert checked(lowered, workshop.sound(name, "int8"), built)


@pytest.mark.parametrize("name", ["digits", "plain", "QK norm"])
def test_table_from_before_fine_tuning(name: str, workshop: Workshop) -> None:
    built = with_larger_norms(workshop.built(name), 6.0)
    lowered = INT8().lower(built.fp32, workshop.calibration(name, "minmax"))["cpu"]
    faults = checked(lowered, workshop.sound(name, "int8", "minmax"), built)
    assert {f"blocks.{block}.attn.qkv" for block in range(4)} <= {f.module for f in faults}
    assert any("stale or foreign" in fault.what for fault in faults)


@pytest.mark.parametrize("graph", ["fp16", "int8", "int8.gpu", "bf16"])
def test_graph_of_older_weights(graph: str, workshop: Workshop) -> None:
    built, older = workshop.built("plain"), workshop.sound("plain, 1", graph)
    faults = find_faults(
        older, built.fp32, built.images, built.reference, built.scale, limits_of(graph)
    )
    assert len([fault for fault in faults if fault.check == LOCAL]) > 10
