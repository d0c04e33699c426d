"""Makes everything constant that does not depend on the image, by running the file, and removes
what changes nothing.

Exporters write shapes as chains of Shape, Gather, Concat and worse. One run at batch 1 tells the
shape of every tensor and the value of every tensor that no pixel reaches, so no chain is left,
whichever operators it was made of. `make_batch_dynamic` undoes it for the batch at the end; a run
at batch 2 tells it which constants grow with the batch, as queries repeated for every image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from vit_edge.export.graph_edit import rewire, sizes
from vit_edge.runtime.errors import InputError

from .attention import reshape
from .evaluate import AnyArray, OnnxRunner, constant

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


class RemoveNoOps(ir.passes.InPlacePass):
    """Casts to the same type, sums with zeros (an empty attention mask), Dropout, layout changes
    that change no layout, Gathers of everything in order, and guards against NaN behind a Softmax.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            kept = _kept(node)
            if kept is not None and not node.outputs[0].is_graph_output():
                rewire(node.outputs[0], kept)
                modified = True
            elif _gathers_all(node):
                _make_reshape(node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _kept(node: ir.Node) -> ir.Value | None:
    """The input that `node` hands on unchanged."""
    first = node.inputs[0] if node.inputs else None
    if first is None:
        return None
    same_shape = sizes(first) == sizes(node.outputs[0]) != ()
    if node.op_type in ("Identity", "Dropout"):
        return first
    if node.op_type == "Cast":
        return first if first.dtype == node.outputs[0].dtype else None
    if node.op_type in ("Reshape", "Expand"):
        return first if same_shape else None
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", ()))
        return first if perm and perm == sorted(perm) else None
    if node.op_type == "Where":
        return _guarded(node)
    return _beside_neutral(node) if node.op_type in _NEUTRAL else None


def _gathers_all(node: ir.Node) -> bool:
    """True for a Gather of every element of a vector in order: PyTorch's `as_strided`."""
    if node.op_type != "Gather" or len(sizes(node.inputs[0])) != 1:
        return False
    indices = constant(node.inputs[1])
    count = sizes(node.inputs[0])[0]
    return indices is not None and np.array_equal(indices.ravel(), np.arange(count))


def _make_reshape(gather: ir.Node) -> None:
    result = gather.outputs[0]
    assert gather.inputs[0] is not None
    shaped = reshape(gather, gather.inputs[0], sizes(result))
    rewire(result, shaped)


def _beside_neutral(node: ir.Node) -> ir.Value | None:
    sides = [(node.inputs[0], node.inputs[1])]
    if node.op_type in ("Add", "Mul"):
        sides.append((node.inputs[1], node.inputs[0]))
    for value, number in sides:
        data = constant(number)
        if value is None or data is None or constant(value) is not None:
            continue
        same_shape = sizes(value) == sizes(node.outputs[0])
        if same_shape and bool((data == _NEUTRAL[node.op_type]).all()):
            return value
    return None


def _guarded(node: ir.Node) -> ir.Value | None:
    """`Where(IsNaN(p), 0, p)` is p for a Softmax p of finite scores."""
    condition, _, value = node.inputs
    test = condition.producer() if condition is not None else None
    softmax = value.producer() if value is not None else None
    if test is None or softmax is None or test.op_type != "IsNaN" or test.inputs[0] is not value:
        return None
    return value if softmax.op_type == "Softmax" else None


_SHAPE_OPS = ("Shape", "Size")
_TWO = 2
_RTOL, _ATOL = 1e-4, 1e-6
"""Of the same products for one image and for two. The rewritten graph is compared afterwards."""

BATCH_AXIS = "batch axis"
"""Key in the `meta` of a constant that is repeated for every image along that axis; of a shape it
is the size that is multiplied by the batch. In that of what a Reshape gives, the batch's axis.
"""


def fold_static_shapes(model: ir.Model) -> None:
    """Fixes the batch to 1, in place: static shapes, constants as initializers, dead code gone.

    Raises:
        InputError: if ONNX Runtime cannot run the model.
    """
    image = model.graph.inputs[0]
    assert image.shape is not None
    fixed = image.shape.is_static(0)
    image.shape = ir.Shape([1, *list(image.shape)[1:]])
    _fold_static_shapes(model, fixed=fixed)
    if any(node.op_type == "If" for node in model.graph):  # its condition may be constant now
        fold_constants(model)
        _fold_static_shapes(model, fixed=True)


def _fold_static_shapes(model: ir.Model, *, fixed: bool) -> None:
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
    results = OnnxRunner(model, values)(np.zeros(image.shape.numpy(), image.dtype.numpy()))
    axes = {} if fixed else _find_batch_axes(model, _to_repeat(values, dynamic), results)
    for value in values:
        data = results[str(value.name)]
        if not isinstance(data, np.ndarray):
            continue
        if value in dynamic or value.is_graph_output():
            value.shape = ir.Shape(data.shape)
            value.type = ir.TensorType(ir.DataType.from_numpy(data.dtype))
            if value in axes:
                value.meta[BATCH_AXIS] = axes[value]
        else:
            _make_constant(model.graph, value, data, axes.get(value))
    common.RemoveUnusedNodesPass()(model)


def _to_repeat(values: Sequence[ir.Value], dynamic: set[ir.Value]) -> list[ir.Value]:
    """Constants, and what Reshapes give, whose axes the shapes at batch 1 may not tell."""
    return [
        value
        for value in values
        if value not in dynamic or (node := value.producer()) is None or node.op_type == "Reshape"
    ]


def _find_batch_axes(
    model: ir.Model, values: Sequence[ir.Value], ones: Mapping[str, AnyArray]
) -> dict[ir.Value, int]:
    image = model.graph.inputs[0]
    assert image.shape is not None
    assert image.dtype is not None
    before = image.shape
    image.shape = ir.Shape([_TWO, *list(before)[1:]])
    try:
        twos = OnnxRunner(model, values)(np.zeros(image.shape.numpy(), image.dtype.numpy()))
    except InputError:  # it takes one image, whatever it says
        return {}
    finally:
        image.shape = before
    axes = {}
    for value in values:
        pair = (ones[str(value.name)], twos[str(value.name)])
        if not all(isinstance(data, np.ndarray) for data in pair):
            continue
        node = value.producer()
        reshaped = node is not None and node.op_type == "Reshape"
        axis = _doubled(*pair) if reshaped else _batch_axis(*pair)
        if axis is not None:
            axes[value] = axis
    return axes


def _doubled(one: AnyArray, two: AnyArray) -> int | None:
    """The axis along which `two` is twice as long as `one`, if it is the only one that differs."""
    if one.ndim != two.ndim:
        return None
    changed = [i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    if len(changed) != 1 or two.shape[changed[0]] != _TWO * one.shape[changed[0]]:
        return None
    return changed[0]


def _batch_axis(one: AnyArray, two: AnyArray) -> int | None:
    """The axis along which `two` is `one` twice; of a shape the size that is twice as large."""
    axis = _doubled(one, two)
    if axis is not None:
        twice = np.concatenate([one, one], axis)
        return axis if np.allclose(twice, two, rtol=_RTOL, atol=_ATOL) else None
    if one.shape == two.shape and one.ndim == 1 and one.dtype == np.int64:
        changed = np.flatnonzero(one != two)
        if len(changed) == 1 and two[changed[0]] == _TWO * one[changed[0]]:
            return int(changed[0])
    return None


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


def _make_constant(graph: ir.Graph, value: ir.Value, data: np.ndarray, axis: int | None) -> None:
    constant = ir.val(f"{value.name}@constant", const_value=ir.tensor(data))
    if axis is not None:
        constant.meta[BATCH_AXIS] = axis
    graph.register_initializer(constant)
    value.replace_all_uses_with(constant)
