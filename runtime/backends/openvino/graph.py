"""Turns the Linears of an OpenVINO model into 1x1 convolutions, whose kernels suit ViTs.

OpenVINO's kernels for matrix products (oneDNN's inner product) take rows in blocks of 64: the 197
tokens of a 224x224 image take the time of 256. Its kernels for 1x1 convolutions choose blocks that
fit. On CPUs without AVX-512, 8-bit matrix products also fall back to floats; convolutions do not.
These kernels use the memory layout of the tokens, tokens by channels, so no data is moved around
them, provided that all shapes are known: with a dynamic batch, OpenVINO copies before and after
each. docs/performance.md has the measurements.

Source: OpenVINO operation set 13 (MatMul, Convolution, Transpose, Reshape).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_EIGHT_BITS = ("i8", "u8")


@dataclass(frozen=True)
class TokenProduct:
    """Product of tokens and weights in an OpenVINO model.

    Attributes:
        node: The MatMul; its tokens are `[N, tokens, inputs]`.
        weights: The Constant `[inputs, outputs]`.
        scale: The output `[1, outputs]` or `[outputs]` that 8-bit weights are multiplied by; None
            for others.
        tokens: Number of tokens of an image.
    """

    node: Any
    weights: Any
    scale: Any
    tokens: int

    @property
    def shape(self) -> tuple[int, int]:
        inputs, outputs = self.weights.get_output_shape(0)
        return inputs, outputs

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        inputs, outputs = self.shape
        return self.tokens * inputs * outputs


def find_token_products(model: Any) -> list[TokenProduct]:
    """Returns the Linears of an `openvino.Model` whose shapes are all known."""
    candidates = (_linear(node) for node in model.get_ordered_ops())
    return [linear for linear in candidates if linear is not None]


def as_convolutions(library: Any, model: Any, linears: list[TokenProduct]) -> None:
    """Replaces these Linears in the model by convolutions."""
    import openvino.opset13 as ops

    for linear in linears:
        _join_quantiser(ops, linear.node.input_value(0))
        _replace(library, ops, linear)
    model.validate_nodes_and_infer_types()


def _linear(node: Any) -> TokenProduct | None:
    if node.get_type_name() != "MatMul" or any(
        node.get_attributes()[flag] for flag in ("transpose_a", "transpose_b")
    ):
        return None
    tokens, (weights, scale) = node.input_value(0).get_partial_shape(), _weights(node)
    if weights is None or tokens.is_dynamic or len(tokens) != 3:
        return None
    return TokenProduct(node, weights, scale, tokens[1].get_length())


def _weights(node: Any) -> tuple[Any, Any]:
    """Returns Constant and scale of `(Convert(Constant) - 0) * scale`, or a lone Constant."""
    weights, scale = _source(node, 1), None
    if weights.get_type_name() == "Multiply":
        scale, weights = weights.input_value(1), _source(weights, 0)
        if weights.get_type_name() == "Subtract":
            zero = _constant_behind(weights.input_value(1))
            if zero.get_type_name() != "Constant" or np.any(zero.data):
                return None, None
            weights = _source(weights, 0)
        if weights.get_type_name() != "Convert":
            return None, None
        weights = _source(weights, 0)
        if weights.get_element_type().get_type_name() not in _EIGHT_BITS:
            return None, None
    if weights.get_type_name() != "Constant" or len(weights.get_output_shape(0)) != 2:
        return None, None
    return weights, scale


def _join_quantiser(ops: Any, tokens: Any) -> None:
    """Joins ONNX's Q and DQ to OpenVINO's single quantiser, if tokens come from such a pair.

    Before a convolution OpenVINO (2026.4) misreads the pair: behind a LayerNormalization it rounded
    to 9 levels instead of 256. A constant that is subtracted first
    (`export/quantise/layer_search.py`) becomes part of the quantiser's range, which saves a pass.
    """
    scaled = tokens.get_node()
    pair = _quantiser(scaled)
    if pair is None:
        return
    quantiser, zero, scale = pair
    low, high = (
        ops.constant(((_source(quantiser, index).data - zero) * scale).astype(np.float32))
        for index in (3, 4)
    )
    x, *range_in = (quantiser.input_value(index) for index in range(3))
    shift = _shift(x)
    if shift is not None:
        x, range_in = x.get_node().input_value(0), [ops.add(r, shift) for r in range_in]
    levels = quantiser.get_attributes()["levels"]
    joined = ops.fake_quantize(x, *range_in, low, high, levels)
    joined.set_friendly_name(scaled.get_friendly_name())
    scaled.output(0).replace(joined.output(0))


def _shift(x: Any) -> Any:
    """Returns the number that was subtracted to centre `x`, or None."""
    node = x.get_node()
    if node.get_type_name() != "Subtract" or _source(node, 1).get_type_name() != "Constant":
        return None
    shift = node.input_value(1)
    return shift if shift.get_partial_shape().rank.get_length() == 0 else None


def _quantiser(node: Any) -> tuple[Any, Any, Any] | None:
    """Returns quantiser, zero and scale of `(Convert(Convert(FakeQuantize)) - zero) * scale`."""
    constants = []
    for kind in ("Multiply", "Subtract"):
        if node.get_type_name() != kind:
            return None
        constants.append(_constant_behind(node.input_value(1)))
        node = _source(node, 0)
    scale, zero = constants
    while node.get_type_name() == "Convert":
        node = _source(node, 0)
    is_pair = node.get_type_name() == "FakeQuantize" and not any(
        constant.get_type_name() != "Constant" or constant.data.size != 1
        for constant in (scale, zero)
    )
    return (node, zero.data, scale.data) if is_pair else None


def _replace(library: Any, ops: Any, linear: TokenProduct) -> None:
    """Convolves `[N, tokens, inputs]` as `[N, inputs, tokens, 1]`; transposes the result back."""
    inputs, outputs = linear.shape
    images = ops.reshape(linear.node.input_value(0), _ints(ops, 0, 0, 1, inputs), True)
    images = ops.transpose(images, _ints(ops, 0, 3, 1, 2))
    filters = _filters(library, ops, linear)
    sums = ops.convolution(images, filters, [1, 1], [0, 0], [0, 0], [1, 1])
    sums.set_friendly_name(f"{linear.node.get_friendly_name()}/Convolution")  # for profiles
    replaced, bias = _bias(linear.node)
    if bias is not None:
        sums = ops.add(sums, ops.reshape(bias, _ints(ops, 1, outputs, 1, 1), False))
    tokens = ops.transpose(sums, _ints(ops, 0, 2, 3, 1))
    tokens = ops.reshape(tokens, _ints(ops, 0, 0, outputs), True)
    tokens.set_friendly_name(replaced.get_friendly_name())
    replaced.output(0).replace(tokens.output(0))


def _filters(library: Any, ops: Any, linear: TokenProduct) -> Any:
    """Returns weights `[outputs, inputs, 1, 1]`, transposed here: OpenVINO would keep two sets."""
    kind = linear.weights.get_element_type()
    inputs, outputs = linear.shape
    turned = library.Tensor(kind, library.Shape([outputs, inputs, 1, 1]))
    turned.data[:, :, 0, 0] = linear.weights.data.T
    filters = ops.constant(turned)
    if linear.scale is None:
        return filters
    scale = ops.reshape(linear.scale, _ints(ops, -1, 1, 1, 1), False)
    return ops.multiply(ops.convert(filters, scale.get_element_type().get_type_name()), scale)


def _bias(node: Any) -> tuple[Any, Any]:
    """Returns the Add behind a MatMul and its constant `[outputs]`; else the MatMul and None."""
    readers = list(node.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Add":
        return node, None
    add = readers[0].get_node()
    other = add.input_value(1 - readers[0].get_index()).get_node()
    outputs = node.get_output_partial_shape(0)[2].get_length()
    if other.get_type_name() != "Constant" or list(other.get_output_shape(0)) != [outputs]:
        return node, None
    return add, other


def _constant_behind(output: Any) -> Any:
    """Returns the node before any Converts and Reshapes."""
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = _source(node, 0)
    return node


def _source(node: Any, index: int) -> Any:
    return node.input_value(index).get_node()


def _ints(ops: Any, *values: int) -> Any:
    return ops.constant(np.array(values, dtype=np.int64))
