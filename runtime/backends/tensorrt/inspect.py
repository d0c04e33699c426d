"""Reads the types that an ONNX graph asks for in matrix products, and an engine's actual layers.

Source: TensorRT Python API (INetworkDefinition, EngineInspector); TensorRT developer guide, "Engine
Inspector".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...manifest import EngineSpec
from ...schema import printable
from ..base import AskedProduct
from .open import Logger, open_engine, require_context

if TYPE_CHECKING:
    import tensorrt as trt

    from .build import FullLibrary

_LONGEST_NAME = 500
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def inspect_engine(library: FullLibrary, logger: Logger, blob: bytes, spec: EngineSpec) -> str:
    """Returns the inspector's JSON of an engine, at the batch size that it is optimised for.

    Raises:
        EngineError: if the engine is refused.
    """
    runtime, engine = open_engine(library, logger, blob)
    context = require_context(engine.create_execution_context())
    # The inspector shows formats for known shapes only.
    context.set_input_shape(spec.input_name, (spec.batch[1], *spec.image_shape))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    del inspector, context, engine, runtime  # in this order
    return str(text)


def asked_products(
    library: FullLibrary, network: trt.INetworkDefinition
) -> tuple[AskedProduct, ...]:
    """Returns every matrix product and convolution of a network, in its order."""
    makers: dict[str, trt.ILayer] = {}
    for index in range(network.num_layers):
        maker = network.get_layer(index)
        makers.update((maker.get_output(i).name, maker) for i in range(maker.num_outputs))
    kinds = (library.LayerType.MATRIX_MULTIPLY, library.LayerType.CONVOLUTION)
    products = [maker for maker in makers.values() if maker.type in kinds]
    return tuple(_product(library, maker, makers) for maker in products)


def _product(
    library: FullLibrary, maker: trt.ILayer, makers: dict[str, trt.ILayer]
) -> AskedProduct:
    """Describes one layer. A convolution whose kernel is a plain constant has one input."""
    nodes = _NODE.findall(maker.metadata)
    operands = [_operand(library, maker.get_input(i), makers) for i in range(maker.num_inputs)]
    types = tuple(dtype for dtype, _ in operands)
    constant = len(operands) == 1 or operands[1][1]
    return AskedProduct(
        node_name(str(nodes[0] if nodes else maker.name)), (types * 2)[:2], constant
    )


def node_name(text: str) -> str:
    """Cleans a node's name, which is not trusted, so that it can be shown and kept."""
    return printable(text[:_LONGEST_NAME])


def _operand(
    library: FullLibrary, tensor: trt.ITensor, makers: dict[str, trt.ILayer]
) -> tuple[str, bool]:
    """Returns the type of an operand, before its DequantizeLinear if it has one, and true if it is
    a constant.
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
