from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibration.onnx_file import same_graph


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
