from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.onnx_file import graph_digest, same_graph, save_onnx, to_bytes
from vit_edge.export.precision import find_precision
from vit_edge.runtime.backends.onnxruntime import open_inference


def relu(weight: float, op_type: str = "Relu") -> ir.Model:
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
            z = Add (x, w)
            y = {op_type} (z)
        }}"""
    )
    constant = ir.tensor(np.array([weight, 2], np.float32), name="w")
    model.graph.initializers["w"].const_value = constant
    return model


def test_a_copy_is_the_same_graph_and_another_weight_or_operator_is_not() -> None:
    assert same_graph(relu(1.0), relu(1.0))
    assert not same_graph(relu(1.0), relu(1.5))
    assert not same_graph(relu(1.0), relu(1.0, "Neg"))


def answers(graph: bytes, external: object) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    session = open_inference(graph, external)  # type: ignore[arg-type]
    result: np.ndarray = session.run(None, {"images": frames})[0]
    return result


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "fp8"])
def test_weights_beside_the_graph_are_the_weights_in_it(
    optimised: ir.Model, calibration: Calibration, precision: str
) -> None:
    graphs = find_precision(precision).lower(optimised, calibration)
    graph = graphs.get("cpu", graphs["gpu"])
    whole = ir.to_proto(graph).SerializeToString()
    content = to_bytes(graph)
    assert len(content.graph) < len(whole) / 2
    assert len(content.graph) + sum(map(len, content.external.values())) < 1.05 * len(whole)
    assert np.array_equal(answers(content.graph, content.external), answers(whole, {}))
    assert ir.to_proto(graph).SerializeToString() == whole  # and the graph is untouched


def test_weights_come_as_a_file_would_hold_them() -> None:
    numbers = np.arange(4096, dtype=np.float32).reshape(32, 128) % 7
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 32] x) => (float[1, 32] y) <float[32, 128] w = {0}> { y = MatMul (x, w) }"""
    )
    for weight in (
        ir.tensor(numbers),
        ir.tensor(numbers.T),  # not in the order of its memory
        ir.tensor(numbers.astype(ml_dtypes.bfloat16)),
        ir.tensor(numbers.astype(ml_dtypes.float8_e4m3fn)),
        ir.tensor(numbers.astype(ml_dtypes.int4), dtype=ir.DataType.INT4),
    ):
        model.graph.initializers["w"].const_value = weight
        (content,) = to_bytes(model).external.values()
        assert bytes(content) == weight.tobytes(), weight.dtype


def test_a_digest_does_not_depend_on_where_the_weights_lie(
    optimised: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = graph_digest(optimised)
    save_onnx(optimised, tmp_path / "one.onnx")
    monkeypatch.setattr("vit_edge.calibration.onnx_file.LIMIT", 0)
    save_onnx(optimised, tmp_path / "two.onnx")
    assert (tmp_path / "two.data").is_file()
    for name in ("one", "two"):
        assert graph_digest(ir.load(tmp_path / f"{name}.onnx")) == digest
