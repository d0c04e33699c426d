"""What the layers of an engine really run in, and what its ONNX graph asks of them.

The engine inspector tells the first, TensorRT's own parser the second.

Source: TensorRT Python API (EngineInspector, INetworkDefinition); TensorRT developer guide, "Engine
Inspector". The inspector's JSON has no specification: whatever is not as expected is shown as
unknown, never guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError
from ..manifest import EngineSpec
from .base import External
from .tensorrt_build import parse_network
from .tensorrt_open import Logger, open_engine, require_made
from .tensorrt_types import UNKNOWN, find_type, narrowest, of_kernel

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SUFFIX = re.compile(r"_myl\d+_\d+$")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        kind: TensorRT's name for what it does.
        inputs: Types of its inputs.
        outputs: Types of its outputs.
        nodes: The nodes of the ONNX graph that it does the work of.
        kernel: The kernel's name, or "".
        precision: What it computes in: its kernel's type where the name tells it, else the
            narrowest of its inputs, weights or outputs.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    kernel: str
    precision: str


@dataclass(frozen=True)
class Product:
    """A matrix product of the ONNX graph: what it asks for and what runs."""

    node: str
    asked: str
    runs: str


@dataclass(frozen=True)
class Layers:
    """The layers of an engine, and what its graph asks of its matrix products, by node."""

    ran: tuple[Layer, ...]
    asked: dict[str, str]

    def products(self) -> list[Product]:
        """What became of each matrix product of the graph."""
        return [Product(node, asked, self._runs(node)) for node, asked in self.asked.items()]

    def _runs(self, node: str) -> str:
        """By the layer whose kernel's name tells a type, for a node that several share."""
        owners = [layer for layer in self.ran if node in layer.nodes]
        told = [layer for layer in owners if of_kernel(layer.kernel) is not None]
        return (told or owners)[0].precision if owners else UNKNOWN

    def shares(self) -> dict[str, int]:
        """How many layers run in each precision, most first."""
        counts: dict[str, int] = {}
        for layer in self.ran:
            counts[layer.precision] = counts.get(layer.precision, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def read_layers(library: Any, logger: Logger, blob: bytes, spec: EngineSpec) -> tuple[Layer, ...]:
    """The layers of an engine, at the batch size that it was built for best.

    Raises:
        EngineError: if the engine is refused, or was built without descriptions of its layers.
    """
    runtime, engine = open_engine(library, logger, blob)
    context = engine.create_execution_context()
    if context is None:
        raise EngineError("no execution context: most likely the GPU is out of memory")
    # Formats are told for known shapes only.
    context.set_input_shape(spec.input_name, (spec.batch[1], *spec.image_shape))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    del inspector, context, engine, runtime  # in this order
    return parse_layers(text)


def parse_layers(text: str) -> tuple[Layer, ...]:
    """The layers in what `EngineInspector.get_engine_information` wrote as JSON.

    Raises:
        EngineError: if it is not that, or names the layers only.
    """
    try:
        entries = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"the engine inspector answered {text[:80]!r}") from None
    if not all(isinstance(entry, dict) for entry in entries):
        raise EngineError(
            "it was built without descriptions of its layers: `vit-edge build` makes one with them"
        )
    return tuple(map(_layer, entries))


def _layer(entry: dict[str, Any]) -> Layer:
    name, kernel = str(entry.get("Name", "")), str(entry.get("TacticName", ""))
    inputs, outputs = (_types(entry.get(side)) for side in ("Inputs", "Outputs"))
    nodes = _NODE.findall(str(entry.get("Metadata", ""))) or _named_after(name)
    weights = entry.get("Weights")
    held = (find_type(str(weights.get("Type"))),) if isinstance(weights, dict) else ()
    known = (narrowest(kinds) for kinds in (inputs, held, outputs))
    precision = of_kernel(kernel) or next((kind for kind in known if kind), UNKNOWN)
    kind = str(entry.get("LayerType", UNKNOWN))
    return Layer(name, kind, inputs, outputs, tuple(nodes), kernel, precision)


def _named_after(name: str) -> list[str]:
    """The nodes that a layer without metadata is named after: "a + b", or "a+b_myl0_7"."""
    return re.split(r"\s*\+\s*", _SUFFIX.sub("", name))


def _types(entries: object) -> tuple[str, ...]:
    """Of a layer's inputs or outputs. TensorRT 10 has "Format/Datatype", 11 has "DataType"."""
    found = []
    for entry in entries if isinstance(entries, list) else []:
        values = entry.items() if isinstance(entry, dict) else ()
        described = [str(value) for key, value in values if key.lower().endswith("datatype")]
        found.append(find_type(described[0]) if described else UNKNOWN)
    return tuple(found)


def asked_products(
    library: Any, logger: Logger, onnx: bytes, external: External, messages: list[str]
) -> dict[str, str]:
    """The type that each matrix product of a graph asks for, by its node: a quantised one where
    both its inputs come from a DequantizeLinear.

    Raises:
        EngineError: if the parser refuses the graph.
    """
    builder = library.Builder(logger)
    require_made(builder, logger)
    network = parse_network(library, builder, logger, onnx, external, messages)
    makers = dict[str, Any]()
    for index in range(network.num_layers):
        maker = network.get_layer(index)
        makers.update((maker.get_output(i).name, maker) for i in range(maker.num_outputs))
    kinds = (library.LayerType.MATRIX_MULTIPLY, library.LayerType.CONVOLUTION)
    products = [maker for maker in makers.values() if maker.type in kinds]
    return {_node(maker): _asked_type(library, maker, makers) for maker in products}


def _node(maker: Any) -> str:
    """The ONNX node that a layer of the network was made from."""
    found = _NODE.findall(maker.metadata)
    return str(found[0] if found else maker.name)


def _asked_type(library: Any, maker: Any, makers: dict[str, Any]) -> str:
    quantised = [
        _quantised(library, maker.get_input(index), makers) for index in range(maker.num_inputs)
    ]
    if len(quantised) > 1 and quantised[0] is not None and quantised[1] is not None:
        return quantised[0]
    return find_type(maker.get_input(0).dtype.name)


def _quantised(library: Any, tensor: Any, makers: dict[str, Any]) -> str | None:
    """The type before the DequantizeLinear that a tensor comes from; None if from another one."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.type == library.LayerType.SHUFFLE:
        maker = makers.get(maker.get_input(0).name)
    if maker is None or maker.type != library.LayerType.DEQUANTIZE:
        return None
    return find_type(maker.get_input(0).dtype.name)
