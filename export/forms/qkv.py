"""Linears whose outputs are cut into parts, as queries, keys and values.

TensorRT cuts the product `MatMul -> Add -> Split` itself and joins it again; of quantised weights
it then multiplies what it dequantises at every call, in 16 bits. A Clip to the largest finite
numbers, which changes none, is not cut through: one product stays one kernel of its type, and one
kernel more lays out all parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.graph_edit import add_initializer, array, describe, register
from vit_edge.export.quantise.float4_qdq import dequantised_scales

_SATURATED = "saturated"


@dataclass(frozen=True)
class _Product:
    """`MatMul(activation, weight)`, plus a bias where there is one; `weight` is a constant, or
    comes from a DequantizeLinear of one.
    """

    matmul: ir.Node
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        product = self.matmul.outputs[0]
        return product if self.bias is None else next(iter(product.consumers())).outputs[0]

    @property
    def weight(self) -> ir.Value:
        weight = self.matmul.inputs[1]
        assert weight is not None
        return weight

    @property
    def dequantise(self) -> ir.Node | None:
        return _dequantiser(self.weight)

    @property
    def dequantise_scales(self) -> ir.Node | None:
        """The node that dequantises the block scales of NVFP4; None for other weights."""
        return None if self.dequantise is None else dequantised_scales(self.dequantise)

    @property
    def width(self) -> int:
        return int(_data(self.constants[0]).shape[1])

    @property
    def alike(self) -> tuple[object, ...]:
        """Properties that products have to share to be joined."""
        node, first, constants = self.dequantise, self.dequantise_scales, self.constants
        step = None if first is None else float(_data(first.inputs[1]))
        attributes = {} if node is None else {a.name: a.value for a in node.attributes.values()}
        kinds = [(value.dtype, len(value.shape or ()), _rows(value)) for value in constants]
        return (self.matmul.inputs[0], self.output.dtype, str(attributes), step, str(kinds))

    @property
    def constants(self) -> list[ir.Value]:
        """The weight, or what its DequantizeLinear reads; all can be cut and joined by columns."""
        node, first = self.dequantise, self.dequantise_scales
        values = [self.weight] if node is None else list(node.inputs)
        if first is not None:  # the other scale, one number, is for all columns
            values = [values[0], first.inputs[0]]
        return [value for value in values if value is not None]


def saturate(model: ir.Model) -> bool:
    """Joins what reads the same activation, and puts a Clip before what cuts a Linear's output."""
    joined, changed = _join_all(model), False
    for split, _ in _cut_products(model.graph):
        value = split.inputs[0]
        if value is None or _is_ours(value.producer()):
            continue
        assert value.dtype is not None
        bounds = [
            add_initializer(model.graph, f"{value.name}/most", sign * _largest(value.dtype))
            for sign in (-1, 1)
        ]
        clip = ir.node("Clip", [value, *bounds], name=f"{value.name}/{_SATURATED}")
        describe(clip.outputs[0], clip.name, value.shape, value.dtype)
        model.graph.insert_before(split, clip)
        split.replace_input_with(0, clip.outputs[0])
        changed = True
    return joined or changed


def _largest(dtype: ir.DataType) -> np.ndarray:
    """The largest finite number of a type."""
    kind = dtype.numpy()
    return np.asarray(ml_dtypes.finfo(kind).max, kind)  # type: ignore[no-untyped-call]


def join(model: ir.Model) -> bool:
    """Takes the Clip away again; joins what reads the same activation."""
    joined, changed = _join_all(model), False
    for split, _ in _cut_products(model.graph):
        node = split.inputs[0].producer() if split.inputs[0] is not None else None
        if node is not None and _is_ours(node):
            split.replace_input_with(0, node.inputs[0])
            changed = True
    RemoveUnusedNodesPass()(model)
    return joined or changed


def cut_apart(model: ir.Model) -> bool:
    """Writes each part as a product of its own."""
    cuts = _cut_products(model.graph)
    for split, product in cuts:
        edges = np.cumsum([0, *_sizes(split)]).tolist()
        for number, (part, (start, end)) in enumerate(
            zip(split.outputs, pairwise(edges), strict=True)
        ):
            columns = _columns(model.graph, product, slice(start, end), number)
            part.replace_all_uses_with(_as_type(split, columns, part), replace_graph_outputs=True)
    RemoveUnusedNodesPass()(model)
    return bool(cuts)


def _as_type(before: ir.Node, value: ir.Value, like: ir.Value) -> ir.Value:
    """`value` in the type of `like`, as a Cast between the product and its Split gave it."""
    if value.dtype == like.dtype or like.dtype is None or before.graph is None:
        return value
    cast = ir.node("Cast", [value], {"to": like.dtype}, name=f"{like.name}/Cast")
    before.graph.insert_before(before, cast)
    return describe(cast.outputs[0], cast.name, like.shape, like.dtype)


def _cut_products(graph: ir.Graph) -> list[tuple[ir.Node, _Product]]:
    """Each Split over the last axis of a whole Linear's output, but for casts and our Clip."""
    products = []
    for split in graph:
        value = split.inputs[0] if split.op_type == "Split" else None
        rank = len(value.shape or ()) if value is not None else 0
        if value is None or split.attributes.get_int("axis", 0) not in (-1, rank - 1):
            continue
        node = value.producer()
        while node is not None and (node.op_type == "Cast" or _is_ours(node)):
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        product = None if node is None else _product(node)
        if product is not None and all(isinstance(size, int) for size in _sizes(split)):
            products.append((split, product))
    return products


def _is_ours(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Clip" and str(node.name).endswith(_SATURATED)


def _sizes(split: ir.Node) -> list[int]:
    return [value.shape[-1] for value in split.outputs if value.shape is not None]  # type: ignore[misc]


def _product(last: ir.Node) -> _Product | None:
    """The product whose output is that of `last`."""
    if last.op_type == "MatMul":
        return _Product(last, None) if _has_constant_weight(last) else None
    if last.op_type != "Add":
        return None
    inputs = [value for value in last.inputs if value is not None]
    bias = next((v for v in inputs if v.is_initializer() and len(v.shape or ()) == 1), None)
    matmul = next((v.producer() for v in inputs if v is not bias), None)
    if bias is None or matmul is None or not _has_constant_weight(matmul):
        return None
    unbiased, product = matmul.outputs[0], _Product(matmul, bias)
    alone = len(list(unbiased.consumers())) == 1 and not unbiased.is_graph_output()
    return product if alone and bias.shape is not None and bias.shape[0] == product.width else None


def _has_constant_weight(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    if weight is None:
        return False
    if not weight.is_initializer() and _dequantiser(weight) is None:
        return False
    values = _Product(node, None).constants
    # A scale for each column can be cut and joined like the columns.
    by_column = all(value.is_initializer() and len(value.shape or ()) > 0 for value in values)
    return len(values[0].shape or ()) == 2 and by_column


def _dequantiser(weight: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that makes a weight, cast or not."""
    node = weight.producer()
    if node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _join_all(model: ir.Model) -> bool:
    """Products of the same activation become one, whose output is cut."""
    groups: dict[tuple[object, ...], list[_Product]] = {}
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        users = list(node.outputs[0].consumers())
        product = _product(users[0]) if len(users) == 1 else None
        product = product or _product(node)
        if product is not None:
            groups.setdefault(product.alike, []).append(product)
    several = [products for products in groups.values() if len(products) > 1]
    for products in several:
        _join(model.graph, products)
    RemoveUnusedNodesPass()(model)
    return bool(several)


def _join(graph: ir.Graph, products: Sequence[_Product]) -> None:
    first, node = products[0], products[0].matmul
    name, output = f"{node.name}+", first.output
    weight = _joined_weight(graph, products)
    matmul = ir.node("MatMul", [node.inputs[0], weight], name=name)
    shape = _with_width(output.shape, sum(product.width for product in products))
    assert output.dtype is not None
    describe(matmul.outputs[0], matmul.name, shape, output.dtype)
    nodes = [matmul]
    if any(product.bias is not None for product in products):
        bias = np.concatenate([_bias_of(product) for product in products])
        constant = add_initializer(graph, f"{name}/bias", bias)
        add = ir.node("Add", [matmul.outputs[0], constant], name=f"{name}/Add")
        describe(add.outputs[0], add.name, shape, output.dtype)
        nodes.append(add)
    sizes = np.array([product.width for product in products], np.int64)
    split = ir.node(
        "Split",
        [nodes[-1].outputs[0], add_initializer(graph, f"{name}/sizes", sizes)],
        {"axis": -1},
        num_outputs=len(products),
        name=f"{name}/Split",
    )
    graph.insert_before(node, (*nodes, split))
    for part, product in zip(split.outputs, products, strict=True):
        describe(part, str(product.output.name), product.output.shape, output.dtype)
        product.output.replace_all_uses_with(part, replace_graph_outputs=True)


def _bias_of(product: _Product) -> np.ndarray:
    if product.bias is not None:
        return array(product.bias)
    assert product.output.dtype is not None
    return np.zeros(product.width, product.output.dtype.numpy())


def _joined_weight(graph: ir.Graph, products: Sequence[_Product]) -> ir.Value:
    """Their weights side by side, in the same type."""
    node = products[0].dequantise
    columns = [[_data(value) for value in product.constants] for product in products]
    names = [str(value.name) for value in products[0].constants]
    kinds = [value.dtype for value in products[0].constants]
    joined = [
        _constant(graph, f"{name}+", np.concatenate(parts, axis=-1), kind)
        for name, parts, kind in zip(names, zip(*columns, strict=True), kinds, strict=True)
    ]
    if node is None:
        return joined[0]
    return _dequantised(graph, products[0], joined, "+")


def _columns(graph: ir.Graph, product: _Product, columns: slice, number: int) -> ir.Value:
    """Some columns of a product, as a product of their own."""
    node, output = product.matmul, product.output
    constants = [
        _constant(graph, f"{value.name}/{number}", _data(value)[..., columns], value.dtype)
        for value in product.constants
    ]
    weight = (
        constants[0]
        if product.dequantise is None
        else _dequantised(graph, product, constants, f"/{number}")
    )
    shape = _with_width(output.shape, columns.stop - columns.start)
    matmul = ir.node("MatMul", [node.inputs[0], weight], name=f"{node.name}/{number}")
    assert output.dtype is not None
    describe(matmul.outputs[0], matmul.name, shape, output.dtype)
    nodes = [matmul]
    if product.bias is not None:
        bias = add_initializer(graph, f"{product.bias.name}/{number}", array(product.bias)[columns])
        add = ir.node("Add", [matmul.outputs[0], bias], name=f"{node.name}/{number}/Add")
        describe(add.outputs[0], add.name, shape, output.dtype)
        nodes.append(add)
    graph.insert_before(node, nodes)
    return nodes[-1].outputs[0]


def _dequantised(
    graph: ir.Graph, like: _Product, inputs: Sequence[ir.Value], label: str
) -> ir.Value:
    """A DequantizeLinear of these constants, otherwise as that of `like`."""
    old = like.dequantise
    assert old is not None
    first = like.dequantise_scales
    if first is not None:
        scales = _copy(graph, like, first, [inputs[1], first.inputs[1]], label)
        inputs = [inputs[0], scales]
    weight = _copy(graph, like, old, inputs, label)
    if like.weight.dtype == weight.dtype or like.weight.dtype is None:
        return weight
    cast = like.weight.producer()
    assert cast is not None
    return _copy(graph, like, cast, [weight], label)


def _copy(
    graph: ir.Graph, like: _Product, old: ir.Node, inputs: Sequence[ir.Value | None], label: str
) -> ir.Value:
    """A node as `old` that reads `inputs`, of the shape of the first one."""
    name, read = f"{old.name}{label}", inputs[0]
    node = ir.Node("", old.op_type, inputs, list(old.attributes.values()), name=name)
    graph.insert_before(like.matmul, node)
    kind = old.outputs[0].dtype
    assert read is not None
    assert kind is not None
    return describe(node.outputs[0], name, read.shape, kind)


def _data(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _constant(graph: ir.Graph, name: str, data: np.ndarray, dtype: ir.DataType | None) -> ir.Value:
    """A constant of any type, those of four bits too."""
    tensor = ir.tensor(np.ascontiguousarray(data), dtype=dtype, name=name)
    return register(graph, ir.val(name, const_value=tensor))


def _rows(value: ir.Value) -> object:
    """Sizes of all axes but the last."""
    return tuple(value.shape or ())[:-1]


def _with_width(shape: ir.Shape | None, width: int) -> ir.Shape:
    assert shape is not None
    return ir.Shape([*list(shape)[:-1], width])
