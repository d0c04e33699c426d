"""Reads what an ONNX graph asks of its matrix products, through TensorRT's own parser.

Source: TensorRT Python API (INetworkDefinition).
"""

from __future__ import annotations

import re
from typing import Any

from ...schema import printable
from ..base import AskedProduct

_LONGEST_NAME = 500
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def asked_products(library: Any, network: Any) -> tuple[AskedProduct, ...]:
    """Every matrix product and convolution of a network, in its order."""
    makers = dict[str, Any]()
    for index in range(network.num_layers):
        maker = network.get_layer(index)
        makers.update((maker.get_output(i).name, maker) for i in range(maker.num_outputs))
    kinds = (library.LayerType.MATRIX_MULTIPLY, library.LayerType.CONVOLUTION)
    products = [maker for maker in makers.values() if maker.type in kinds]
    return tuple(_product(library, maker, makers) for maker in products)


def _product(library: Any, maker: Any, makers: dict[str, Any]) -> AskedProduct:
    """A convolution whose kernel is a plain constant has one input."""
    found = _NODE.findall(maker.metadata)
    operands = [_operand(library, maker.get_input(i), makers) for i in range(maker.num_inputs)]
    types = tuple(dtype for dtype, _ in operands)
    constant = len(operands) == 1 or operands[1][1]
    return AskedProduct(
        node_name(str(found[0] if found else maker.name)), (types * 2)[:2], constant
    )


def node_name(text: str) -> str:
    """A node's name from a graph that anybody may have written, fit to be shown and kept."""
    return printable(text[:_LONGEST_NAME])


def _operand(library: Any, tensor: Any, makers: dict[str, Any]) -> tuple[str, bool]:
    """The type of an operand, before its DequantizeLinear where it has one, and whether it is a
    constant.
    """
    kinds = library.LayerType
    passed = (kinds.SHUFFLE, kinds.CAST, kinds.QUANTIZE, kinds.DEQUANTIZE)
    quantised, maker = None, makers.get(tensor.name)
    while maker is not None and maker.type in passed:
        if maker.type == kinds.DEQUANTIZE and quantised is None:
            quantised = str(maker.get_input(0).dtype.name)
        maker = makers.get(maker.get_input(0).name)
    constant = maker is not None and maker.type == kinds.CONSTANT
    return quantised or str(tensor.dtype.name), constant
