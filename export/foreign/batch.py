"""Makes the batch of a frozen graph dynamic, and puts it first where Linears ran on `[N, B, K]`, as
PyTorch's own attention module does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import reshape_reshape_rule, transpose_transpose_rule

from vit_edge.export.graph_edit import add_initializer, free_name, insert, rewire, sizes
from vit_edge.export.passes.linears import Linear, find_linears
from vit_edge.runtime.errors import InputError, first_line

from .static_shapes import BATCH_AXIS, RemoveNoOps

_SWAP = {"perm": [1, 0, 2]}


class MoveSwapsBehindLinears(ir.passes.InPlacePass):
    """`swap tokens and batch -> Linear` becomes `Linear -> swap`: a Linear works on each row alone.

    The swap then meets the one that undoes it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        moved = [_move(linear) for linear in find_linears(model.graph)]
        return ir.passes.PassResult(model, modified=any(moved))


def _move(linear: Linear) -> bool:
    swap = linear.activation.producer()
    if swap is None or swap.op_type != "Transpose":
        return False
    source = swap.inputs[0]
    if source is None or list(swap.attributes.get_ints("perm", ())) != _SWAP["perm"]:
        return False
    end = linear.output.producer()
    assert end is not None
    n, b, width = sizes(linear.output)
    result = insert(end, "MatMul", [source, linear.weight], (b, n, width))
    if linear.bias is not None:
        result = insert(end, "Add", [result, linear.bias], (b, n, width))
    rewire(linear.output, insert(end, "Transpose", [result], (n, b, width), _SWAP))
    return True


_MERGE = (
    common.RemoveUnusedNodesPass(),
    RewritePass([reshape_reshape_rule, transpose_transpose_rule]),
    RemoveNoOps(),
)
PUT_BATCH_FIRST = ir.passes.Sequential(
    MoveSwapsBehindLinears(), *_MERGE, *_MERGE, common.RemoveUnusedNodesPass()
)
"""Twice: two swaps may meet only when the Reshapes between them are gone."""


_BATCH, _TWO = "batch", 2
_FEW = 8
_SIZES = 3
"""Input of a Resize."""
_AT_TWO = "at batch 2"
"""Key in the `meta` of a shape that is computed: its sizes at batch 2."""
_ADVICE = "its batch of 1 is built in: export it again with a dynamic batch"

Shapes = dict[ir.Value, tuple[int, ...]]
"""The shapes of values at batch 2; the graph's own are those at batch 1."""


def make_batch_dynamic(model: ir.Model) -> None:
    """Goes from batch 1 to any, in place: rewrites constant shapes where the batch goes through.

    The walk infers every shape at batch 2; where it differs from that at batch 1, the batch is.
    Where a node does not fit there, its constants that grow with the batch are repeated.

    Raises:
        InputError: if an operator does not work on two images, or the output has no batch.
    """
    graph = model.graph
    image = graph.inputs[0]
    shapes: Shapes = {image: (_TWO, *sizes(image)[1:])}
    for node in list(graph):
        if node.op_type == "Reshape":
            _make_reshape_dynamic(graph, node, shapes)
        elif node.op_type == "Concat":
            _make_concat_dynamic(graph, node, shapes)
        elif node.op_type == "Resize":
            _make_resize_dynamic(graph, node, shapes)
        elif node.op_type == "Expand":
            _make_expand_dynamic(graph, node, shapes)
        try:
            inferred = _infer(model, node, shapes)
        except InputError:
            if not _make_constants_dynamic(graph, node, shapes):
                raise
            inferred = _infer(model, node, shapes)
        shapes.update(inferred)
    for output in graph.outputs:
        if shapes.get(output) != (_TWO, *sizes(output)[1:]):
            raise InputError(f"the output {output.name} does not follow the batch; {_ADVICE}")
    for value, shape in shapes.items():
        if len(shape) != len(sizes(value)):
            raise InputError(f"{value.name} has a shape that only its data tells; {_ADVICE}")
        value.shape = ir.Shape([_symbol(a, b) for a, b in zip(sizes(value), shape, strict=True)])


def _symbol(one: int, two: int) -> int | str:
    if one == two:
        return one
    if two != _TWO * one:
        raise InputError(f"a tensor grows from {one} to {two} with the batch; {_ADVICE}")
    return _BATCH if one == 1 else f"{one}*{_BATCH}"


def _axis(before: Sequence[int], after: Sequence[int]) -> int | None:
    """The batch's axis; None if there is none."""
    return next((i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b), None)


def _make_reshape_dynamic(graph: ir.Graph, node: ir.Node, shapes: Shapes) -> None:
    """The batch's axis is left for the Reshape to find: -1."""
    source, target = node.inputs[0], sizes(node.outputs[0])
    axis = _axis(sizes(source), shapes[source]) if source in shapes and source else None
    if axis is None:
        return
    before = sizes(source)[:axis]
    places = [i for i in range(len(target)) if prod(target[:i]) == prod(before)]
    same = axis in places and target[axis] == sizes(source)[axis]
    place = node.outputs[0].meta.get(BATCH_AXIS, axis if same else next(iter(places), None))
    if place is None:
        raise InputError(f"{node.name} mixes images; {_ADVICE}")
    shape = np.array([-1 if i == place else n for i, n in enumerate(target)], dtype=np.int64)
    node.replace_input_with(1, add_initializer(graph, free_name(graph, "shape"), shape))
    node.attributes.pop("allowzero", None)


def _make_expand_dynamic(graph: ir.Graph, node: ir.Node, shapes: Shapes) -> None:
    """The batch's axis, which is there already, is left as it is: 1."""
    source, target = node.inputs[0], sizes(node.outputs[0])
    axis = _axis(sizes(source), shapes[source]) if source in shapes and source else None
    if axis is None:
        return
    place = axis + len(target) - len(sizes(source))
    if target[place] == sizes(source)[axis]:
        shape = np.array([1 if i == place else n for i, n in enumerate(target)], dtype=np.int64)
        node.replace_input_with(1, add_initializer(graph, free_name(graph, "shape"), shape))


def _make_concat_dynamic(graph: ir.Graph, node: ir.Node, shapes: Shapes) -> None:
    """A constant, as the class token, is repeated for every image."""
    axes = {
        axis
        for v in node.inputs
        if v in shapes and v and (axis := _axis(sizes(v), shapes[v])) is not None
    }
    if len(axes) != 1:
        return
    (axis,) = axes
    for index, value in enumerate(node.inputs):
        if value is None or value in shapes or sizes(value)[axis] != 1:
            continue
        sizes_of = _repeated_shape(graph, node, sizes(value), axis)
        repeated = insert(node, "Expand", [value, sizes_of], sizes(value))
        shapes[repeated] = tuple(_TWO if i == axis else n for i, n in enumerate(sizes(value)))
        node.replace_input_with(index, repeated)


def _make_resize_dynamic(graph: ir.Graph, node: ir.Node, shapes: Shapes) -> None:
    """Sizes of all axes, of which the batch's is 1, become factors, which hold for any batch."""
    source = node.inputs[0]
    if len(node.inputs) <= _SIZES or source is None or source not in shapes:
        return
    target, before = node.inputs[_SIZES], sizes(source)
    if target is None or target.const_value is None or "axes" in node.attributes:
        return
    factors = [
        _factor(old, new) for old, new in zip(before, target.const_value.numpy(), strict=True)
    ]
    constant = add_initializer(graph, free_name(graph, "factors"), np.array(factors, np.float32))
    node.resize_inputs(_SIZES)
    node.replace_input_with(_SIZES - 1, constant)
    node.attributes.pop("keep_aspect_ratio_policy", None)


def _factor(old: int, new: int) -> np.float32:
    """The factor that makes `new` of `old`, rounded down as runtimes do."""
    factor = np.float32(new / old)
    while int(np.float32(old) * factor) < new:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _make_constants_dynamic(graph: ir.Graph, node: ir.Node, shapes: Shapes) -> bool:
    """Repeats the constants of `node` that grow with the batch; False if it has none."""
    grown = False
    for index, value in enumerate(node.inputs):
        if value is None or BATCH_AXIS not in value.meta or value.const_value is None:
            continue
        axis, shape, grown = int(value.meta[BATCH_AXIS]), sizes(value), True
        if node.op_type == "Expand" and index == 1:
            target = tuple(value.const_value.numpy().tolist())
            node.replace_input_with(index, _repeated_shape(graph, node, target, axis))
            continue
        times = _repeated_shape(graph, node, (1,) * len(shape), axis)
        repeated = insert(node, "Tile", [value, times], shape)
        repeated.type = value.type
        shapes[repeated] = tuple(_TWO * n if i == axis else n for i, n in enumerate(shape))
        node.replace_input_with(index, repeated)
    return grown


def _repeated_shape(
    graph: ir.Graph, before: ir.Node, shape: tuple[int, ...], axis: int
) -> ir.Value:
    """int64 `shape`, with the size at `axis` times the batch."""
    count = insert(before, "Shape", [graph.inputs[0]], [1], {"start": 0, "end": 1})
    count.type = ir.TensorType(ir.DataType.INT64)
    if shape[axis] != 1:
        size = add_initializer(graph, free_name(graph, "size"), np.array(shape[axis : axis + 1]))
        count = insert(before, "Mul", [count, size], [1])
        count.type = ir.TensorType(ir.DataType.INT64)
    head, tail = (
        [add_initializer(graph, free_name(graph, "size"), np.array(part, dtype=np.int64))]
        if part
        else []
        for part in (shape[:axis], shape[axis + 1 :])
    )
    joined = insert(before, "Concat", [*head, count, *tail], [len(shape)], {"axis": 0})
    joined.type = ir.TensorType(ir.DataType.INT64)
    joined.meta[_AT_TWO] = np.array([_TWO * n if i == axis else n for i, n in enumerate(shape)])
    return joined


def _may_tell_shapes(value: ir.Value) -> bool:
    """Sizes, and the factors of a Resize."""
    return value.dtype == ir.DataType.INT64 or (
        value.dtype == ir.DataType.FLOAT and len(sizes(value)) == 1 and sizes(value)[0] <= _FEW
    )


def _infer(model: ir.Model, node: ir.Node, shapes: Shapes) -> Shapes:
    """The shapes of the outputs of `node` at batch 2; nothing where no image enters."""
    if not any(value in shapes for value in node.inputs if value is not None):
        return {}
    types, data = dict[str, onnx.TypeProto](), dict[str, onnx.TensorProto]()
    for value in node.inputs:
        if value is None or value.dtype is None:
            continue
        shape = shapes.get(value, sizes(value))
        name = str(value.name)
        types[name] = onnx.helper.make_tensor_type_proto(int(value.dtype), shape)
        known = value.meta.get(_AT_TWO)
        if value.is_initializer() and _may_tell_shapes(value):
            assert value.const_value is not None
            known = value.const_value.numpy()
        if known is not None:
            data[name] = onnx.numpy_helper.from_array(known, name)
    opset = model.opset_imports[""]
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.to_proto(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"{node.name}: {first_line(error)}; {_ADVICE}") from None
    return {
        value: tuple(d.dim_value for d in inferred[value.name].tensor_type.shape.dim)
        for value in node.outputs
        if value.name in inferred
    }
