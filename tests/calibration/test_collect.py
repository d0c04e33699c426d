from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from vit_edge.calibration import collect as module
from vit_edge.calibration.collect import collect, provenance_of
from vit_edge.calibration.observers import CalibrationTable, read_table
from vit_edge.export.quantise.attention import attention_tensors
from vit_edge.export.quantise.linear_layers import find_linear_layers
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.images import ImageSet

from ..calibrate import ORIGIN, calibrate


def ignore(done: int, total: int) -> None: ...


def test_each_linear_input_is_calibrated_once(optimised: ir.Model, table: CalibrationTable) -> None:
    layers = {layer.name for layer in find_linear_layers(optimised.graph)}
    assert len(layers) == 8  # two blocks of qkv, proj, fc1 and fc2
    attention = set(attention_tensors(optimised.graph))
    assert len(attention) == 4  # Q, K, V and the attention weights of the first of two blocks
    assert table.amax.keys() == layers | attention
    assert all(0 < table.amax[name] <= table.peak[name] * 1.001 for name in table.amax)


def test_peaks_are_the_largest_magnitudes(optimised: ir.Model, photographs: ImageSet) -> None:
    few = photographs.subset(range(5))
    table = collect(optimised, [], few, "minmax", ORIGIN, ignore).table
    name = "blocks.0/Add_2"
    observed = ir.from_proto(ir.to_proto(optimised))
    observed.graph.outputs.extend(v for n in observed.graph for v in n.outputs if v.name == name)
    session = onnxruntime.InferenceSession(ir.to_proto(observed).SerializeToString())
    (values,) = session.run([name], {"images": next(few.batches(5))})
    assert table.peak[name] == pytest.approx(np.abs(values).max(), rel=1e-5)
    assert table.peak["Sub"] <= 128


def test_a_peak_may_lie_on_either_side(photographs: ImageSet) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (uint8[n, 32, 32, 3] images) => (float[n, 32, 32, 3] y) <float big = {-300}> {
            x = Cast <to = 1> (images)
            y = Add (x, big)
        }"""
    )
    model.graph.node(0).outputs[0].dtype = ir.DataType.FLOAT
    few = photographs.subset(range(5))
    peak = collect(model, [], few, "minmax", ORIGIN, ignore).table.peak
    (frames,) = few.batches(5)
    assert peak == {"x": frames.max(), "y": 300 - int(frames.min())}
    assert peak["y"] > peak["x"]


def test_table_is_the_same_whatever_the_batch(
    optimised: ir.Model, photographs: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, tables = photographs.subset(range(6)), []
    for batch in (1, 2, 6):
        monkeypatch.setattr(module, "_BATCH", batch)
        tables.append(calibrate(optimised, few, "minmax").table.amax)
    for other in tables[1:]:  # matrix products of other shapes round differently
        assert other == pytest.approx(tables[0], rel=1e-5)


def test_calibration_leaves_the_graph_alone(optimised: ir.Model, photographs: ImageSet) -> None:
    before = ir.to_proto(optimised).SerializeToString()
    calibrate(optimised, photographs.subset([0]), "search")
    assert ir.to_proto(optimised).SerializeToString() == before


def test_table_survives_its_file(table: CalibrationTable, tmp_path: object) -> None:
    path = tmp_path / "table.json"  # type: ignore[operator]
    path.write_text(table.to_json())
    assert read_table(path) == table
    path.write_text("{}")
    with pytest.raises(InputError, match="not a calibration table"):
        read_table(path)


@pytest.mark.parametrize(
    ("field", "named"),
    [("graph", "graph"), ("data", "images"), ("method", "method")],
)
def test_a_table_of_something_else_is_refused_by_what_differs(
    table: CalibrationTable, field: str, named: str
) -> None:
    other = replace(table.provenance, **{field: "f" * 64})
    with pytest.raises(InputError, match=rf"made for {named} \S+, here ffffffffffff\. Calibrate"):
        table.require(other)


@pytest.mark.parametrize(("field", "named"), [("weights", "weights"), ("preprocess", "preproc")])
def test_a_table_of_another_model_is_refused_by_what_differs(
    table: CalibrationTable, field: str, named: str
) -> None:
    origin = replace(table.provenance.origin, **{field: "f" * 64})
    with pytest.raises(InputError, match=named):
        table.require(replace(table.provenance, origin=origin))


def test_a_table_knows_its_own_model_and_images(optimised: ir.Model, photographs: ImageSet) -> None:
    few = photographs.subset(range(3))
    table = calibrate(optimised, few, "minmax").table
    table.require(provenance_of(optimised, few, "minmax", ORIGIN))
    with pytest.raises(InputError, match="images"):
        table.require(provenance_of(optimised, photographs.subset([5, 6]), "minmax", ORIGIN))


def test_bad_requests_are_named(optimised: ir.Model, photographs: ImageSet) -> None:
    with pytest.raises(InputError, match="unknown calibration method 'median'"):
        collect(optimised, [], photographs, "median", ORIGIN, ignore)
    with pytest.raises(InputError, match="no images"):
        collect(optimised, [], photographs.subset([]), "minmax", ORIGIN, ignore)
    with pytest.raises(InputError, match="nonsense"):
        collect(optimised, ["nonsense"], photographs, "minmax", ORIGIN, ignore)
