from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.export.measure import simulate
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision.bf16 import BF16
from vit_edge.export.precision.fp16 import FP16
from vit_edge.export.progress import Display
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import BackendError

from ...effort import ONE_CALL
from ..graphs import relative_error, run


def test_all_but_layer_norms_is_bf16(optimised: ir.Model, calibration: Calibration) -> None:
    graphs = BF16().lower(optimised, calibration)
    assert graphs["cpu"] is graphs["gpu"]
    for node in graphs["gpu"].graph:
        if node.op_type in ("MatMul", "Gelu", "Softmax", "Conv", "Add"):
            assert node.outputs[0].dtype == ir.DataType.BFLOAT16, node.name
        if node.op_type == "LayerNormalization":
            assert node.outputs[0].dtype == ir.DataType.FLOAT, node.name
    assert graphs["gpu"].graph.outputs[0].dtype == ir.DataType.FLOAT


def test_simulation_shows_the_coarser_mantissa(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray
) -> None:
    expected = run(optimised, frames)
    coarse, fine = (
        relative_error(run(simulate(p.lower(optimised, calibration)["gpu"]), frames), expected)
        for p in (BF16(), FP16())
    )
    assert 2 * fine < coarse < 0.05


@pytest.mark.slow
def test_bundle_has_its_proof_and_says_what_runs_it(digits_weights: Path, tmp_path: Path) -> None:
    request = ExportRequest(
        timing=ONE_CALL,
        weights=str(digits_weights),
        precisions=("fp32", "bf16"),
        targets=("onnxruntime",),
        out=tmp_path / "out",
        max_batch=4,
    )
    assert export_bundle(request, Display()).good
    bundle = Bundle.open(tmp_path / "out")
    graphs, golden = bundle.manifest.precisions["bf16"].graphs, bundle.golden()
    assert graphs["cpu"] == graphs["gpu"]
    assert "simulated" in graphs["cpu"].accuracy["logits"].measured_on
    with Engine.load(tmp_path / "out", precision="bf16") as engine:  # checks the golden samples
        assert engine.info.backend == "openvino"
        assert np.abs(engine(golden.images) - golden.logits).max() > 1e-4  # 8 bits of mantissa
    with Engine.load(tmp_path / "out", backend="onnxruntime") as engine:
        assert engine.info.precision == "fp32"
    with pytest.raises(BackendError, match="nothing in"):
        Engine.load(tmp_path / "out", precision="bf16", backend="onnxruntime")
