"""Makes everything constant that does not depend on the image, by running the file.

Exporters write shapes as chains of Shape, Gather, Concat and worse. One run at batch 1 tells the
shape of every tensor and the value of every tensor that no pixel reaches, so no chain is left,
whichever operators it was made of. `make_batch_dynamic` undoes it for the batch at the end.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from .session import Runner

_SHAPE_OPS = ("Shape", "Size")


def fold_static_shapes(model: ir.Model) -> None:
    """Fixes the batch to 1, in place: static shapes, constants as initializers, dead code gone.

    Raises:
        InputError: if ONNX Runtime cannot run the model.
    """
    image = model.graph.inputs[0]
    assert image.shape is not None
    image.shape = ir.Shape([1, *list(image.shape)[1:]])
    _fold_static_shapes(model)
    if any(node.op_type == "If" for node in model.graph):  # its condition may be constant now
        fold_constants(model)
        _fold_static_shapes(model)


def _fold_static_shapes(model: ir.Model) -> None:
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    for value in model.graph.outputs:
        value.shape = None
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    image = model.graph.inputs[0]
    assert image.dtype is not None
    assert image.shape is not None
    dynamic = _depends_on(model.graph, image)
    values = [v for node in model.graph for v in node.outputs if v.name]
    results = Runner(model, values)(np.zeros(image.shape.numpy(), image.dtype.numpy()))
    for value in values:
        data = results[str(value.name)]
        if not isinstance(data, np.ndarray):
            continue
        if value in dynamic or value.is_graph_output():
            value.shape = ir.Shape(data.shape)
            value.type = ir.TensorType(ir.DataType.from_numpy(data.dtype))
        else:
            _make_constant(model.graph, value, data)
    common.RemoveUnusedNodesPass()(model)


def _depends_on(graph: ir.Graph, image: ir.Value) -> set[ir.Value]:
    """The values that the pixels reach; a shape is not made of pixels."""
    reached = {image}
    for node in graph:
        inner = [n for a in node.attributes.values() for g in _graphs(a) for n in g.all_nodes()]
        used = {value for n in (node, *inner) for value in n.inputs if value is not None}
        if node.op_type not in _SHAPE_OPS and used & reached:
            reached.update(node.outputs)
    return reached


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _make_constant(graph: ir.Graph, value: ir.Value, data: np.ndarray) -> None:
    constant = ir.val(f"{value.name}@constant", const_value=ir.tensor(data))
    graph.register_initializer(constant)
    value.replace_all_uses_with(constant)
