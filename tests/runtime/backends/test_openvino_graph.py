from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from vit_edge.runtime.backends.openvino import load_library
from vit_edge.runtime.backends.openvino.graph import as_convolutions, find_token_products

TOKENS, INPUTS, OUTPUTS = 5, 8, 6
_RANDOM = np.random.default_rng(3)
WEIGHTS = _RANDOM.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
BIAS = _RANDOM.standard_normal(OUTPUTS).astype(np.float32)


def _model(nodes: list[Any], arrays: dict[str, np.ndarray], shape: tuple[Any, ...]) -> Any:
    """`x` -> `y`, as OpenVINO reads it."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return load_library().Core().read_model(proto.SerializeToString())


def _linear(shape: tuple[Any, ...] = (2, TOKENS, INPUTS), bias: np.ndarray = BIAS) -> Any:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["sums"]),
        helper.make_node("Add", ["b", "sums"], ["y"]),
    ]
    return _model(nodes, {"w": WEIGHTS, "b": bias}, shape)


def _quantised(zero: int = 0) -> Any:
    """As `export/quantise/linears.py` writes it."""
    scale = (np.abs(WEIGHTS).max(0) / 127).astype(np.float32)
    arrays = {
        "w8": np.round(WEIGHTS / scale).astype(np.int8), "ws": scale,
        "wz": np.full(OUTPUTS, zero, np.int8), "s": np.float32(0.02), "z": np.int8(0), "b": BIAS,
        "shift": np.float32(0.6), "gain": 1 + np.abs(WEIGHTS[:, 0]), "mean": WEIGHTS[:, 1],
    }  # fmt: skip
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "mean"], ["normalised"]),
        helper.make_node("Sub", ["normalised", "shift"], ["centred"]),
        helper.make_node("QuantizeLinear", ["centred", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=1),
        helper.make_node("MatMul", ["dq", "w"], ["sums"]),
        helper.make_node("Add", ["sums", "b"], ["y"]),
    ]
    return _model(nodes, {k: np.asarray(v) for k, v in arrays.items()}, (2, TOKENS, INPUTS))


def _answer(model: Any, x: np.ndarray) -> np.ndarray:
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = load_library().Core().compile_model(model, "CPU", properties)
    answer: np.ndarray = compiled(x)[0].copy()
    return answer


def _kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ops()]


def _one_number_for_all() -> Any:
    return _linear(bias=BIAS[:1])


@pytest.mark.parametrize("made", [_linear, _quantised, _one_number_for_all])
def test_a_convolution_sums_the_same(made: Any) -> None:
    model, x = made(), _RANDOM.standard_normal((2, TOKENS, INPUTS)).astype(np.float32)
    expected = _answer(model, x)
    assert np.abs(expected).max() > 1
    linears = find_token_products(model)
    assert [linear.shape for linear in linears] == [(INPUTS, OUTPUTS)]
    assert [linear.macs for linear in linears] == [TOKENS * INPUTS * OUTPUTS]
    as_convolutions(load_library(), model, linears)
    assert "MatMul" not in _kinds(model)
    assert "Convolution" in _kinds(model)
    assert "Subtract" not in _kinds(model)
    np.testing.assert_allclose(_answer(model, x), expected, atol=1e-5)


def test_its_weights_are_its_own_and_compile_twice() -> None:
    """Shared memory that is given back would be read again by the second compilation."""
    model, x = _linear(), _RANDOM.standard_normal((2, TOKENS, INPUTS)).astype(np.float32)
    expected = _answer(model, x)
    as_convolutions(load_library(), model, find_token_products(model))
    for _ in range(3):
        _ = [np.full(INPUTS * OUTPUTS, np.nan, np.float32) for _ in range(1000)]
        np.testing.assert_allclose(_answer(model, x), expected, atol=1e-5)


def test_weights_in_8_bits_stay_in_8_bits() -> None:
    model = _quantised()
    as_convolutions(load_library(), model, find_token_products(model))
    large = [
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_byte_size() >= INPUTS * OUTPUTS
    ]
    assert large == ["i8"]


def test_a_bias_that_others_read_as_well_is_left() -> None:
    """The sum before the bias is an output too: it must stay what it is."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["sums"]),
        helper.make_node("Add", ["sums", "b"], ["biased"]),
        helper.make_node("Mul", ["sums", "biased"], ["y"]),
    ]
    model = _model(nodes, {"w": WEIGHTS, "b": BIAS}, (2, TOKENS, INPUTS))
    x = _RANDOM.standard_normal((2, TOKENS, INPUTS)).astype(np.float32)
    expected = _answer(model, x)
    as_convolutions(load_library(), model, find_token_products(model))
    assert "MatMul" not in _kinds(model)
    np.testing.assert_allclose(_answer(model, x), expected, rtol=1e-4, atol=1e-4)


def _no_weights() -> Any:
    return _model([helper.make_node("MatMul", ["x", "x"], ["y"])], {}, (2, TOKENS, TOKENS))


def _transposed() -> Any:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    return _model([node], {"w": np.ascontiguousarray(WEIGHTS.T)}, (2, INPUTS))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _linear((2, INPUTS)),
        lambda: _linear(("n", TOKENS, INPUTS)),
        lambda: _quantised(zero=3),
        _no_weights,
        _transposed,
    ],
    ids=["no tokens", "a batch that varies", "a zero point", "no weights", "transposed weights"],
)
def test_what_is_no_such_product_is_left(make: Any) -> None:
    assert find_token_products(make()) == []
