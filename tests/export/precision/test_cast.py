from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.measure import simulate
from vit_edge.export.precision.fp16 import FP16

from ..graphs import relative_error, run


def types_of(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {str(node.name): node.outputs[0].dtype for node in model.graph}


def test_all_but_layer_norms_is_fp16(optimised: ir.Model, calibration: Calibration) -> None:
    lowered = FP16().lower(optimised, calibration)["gpu"]
    for node in lowered.graph:
        if node.op_type in ("MatMul", "Gelu", "Softmax", "Conv", "Add"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT16, node.name
        if node.op_type == "LayerNormalization":
            assert node.outputs[0].dtype == ir.DataType.FLOAT, node.name
    assert lowered.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert lowered.graph.outputs[0].name == "logits"


def test_fp16_stays_close(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    lowered = FP16().lower(optimised, calibration)["gpu"]
    expected = run(optimised, frames)
    assert relative_error(run(lowered, frames), expected) < 3e-3
    assert relative_error(run(simulate(lowered), frames), expected) < 3e-3


def test_lowering_leaves_the_fp32_graph_alone(
    optimised: ir.Model, calibration: Calibration
) -> None:
    before = ir.to_proto(optimised).SerializeToString()
    FP16().lower(optimised, calibration)
    assert ir.to_proto(optimised).SerializeToString() == before


def test_weights_are_stored_in_fp16_once(optimised: ir.Model, calibration: Calibration) -> None:
    lowered = FP16().lower(optimised, calibration)["gpu"]
    size, before = (len(ir.to_proto(m).SerializeToString()) for m in (lowered, optimised))
    assert size < 0.6 * before


def test_tensors_beyond_the_headroom_become_islands(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    name = "blocks.0.mlp.fc1/MatMul"
    table = calibration.table
    table = dataclasses.replace(table, peak={**table.peak, name: 10_000.0})
    wide = dataclasses.replace(calibration, table=table)
    lowered = FP16().lower(optimised, wide)["gpu"]
    types = types_of(lowered)
    assert types[name] == ir.DataType.FLOAT
    assert types["blocks.0.mlp.fc1/Add"] == ir.DataType.FLOAT
    assert types["blocks.0.mlp.fc2/MatMul"] == ir.DataType.FLOAT16
    assert relative_error(run(lowered, frames), run(optimised, frames)) < 3e-3
