"""A precision is one frozen dataclass and one row: nothing else has to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import Limits, SegmentLimits
from vit_edge.export.graph_edit import array
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision import PRECISIONS, Budget, Graphs, Precision, Ranks
from vit_edge.export.precision.base import EIGHT_BIT
from vit_edge.export.precision.quantised import QuantisedPrecision
from vit_edge.export.progress import Display
from vit_edge.export.quantise.grid import INT8_GRID, IntegerGrid, Scheme
from vit_edge.runtime import Engine
from vit_edge.runtime.bundle import Bundle

from ...effort import ONE_CALL

LOOSE = SegmentLimits(4e-1, 2.0, 1.2e-1, 9e-1, 2.5e-1)
LIMITS = Limits(exact=1e-1, linear=LOOSE, branch=LOOSE, one_token=2.0, outputs=8e-1, stream=1e-2)


@dataclass(frozen=True)
class CoarseWeights(Precision):
    """fp32 arithmetic on weights of 11 significant bits, for CPUs alone."""

    budget: Budget = EIGHT_BIT
    limits: Limits = LIMITS
    ranks: Ranks = Ranks(cpu=7)

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        lowered = model.clone()
        for name, value in lowered.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT:
                coarse = array(value).astype(np.float16).astype(np.float32)
                value.const_value = ir.tensor(coarse, name=name)
        return {"cpu": lowered}


@dataclass(frozen=True)
class SixBits(QuantisedPrecision):
    """Weights of 6 bits on the levels of INT8."""

    scheme: Scheme = Scheme(IntegerGrid("int6", ir.DataType.INT8, 31.0), INT8_GRID)
    budget: Budget = EIGHT_BIT
    limits: Limits = LIMITS
    ranks: Ranks = Ranks(cpu=0, gpu=8)


@pytest.mark.parametrize("precision", [CoarseWeights(), SixBits()])
def test_one_row_makes_a_precision(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    monkeypatch.setitem(PRECISIONS, "mine", precision)
    request = ExportRequest(
        timing=ONE_CALL,
        model="vit_test_patch8_32",
        precisions=("fp32", "mine"),
        targets=("onnxruntime",),
        out=tmp_path / "out",
        max_batch=4,
    )
    assert export_bundle(request, Display()).good
    graphs = Bundle.open(tmp_path / "out").manifest.precisions["mine"].graphs
    ranks = {kind: graph.rank for kind, graph in graphs.items()}
    assert ranks == {kind: getattr(precision.ranks, kind) for kind in precision.ranks.kinds}
    logits = {}
    for name in ("fp32", "mine"):
        with Engine.load(tmp_path / "out", precision=name) as engine:
            assert engine.info.precision == name
            logits[name] = engine(frames)
    assert 0 < np.abs(logits["mine"] - logits["fp32"]).max() < np.ptp(logits["fp32"])
