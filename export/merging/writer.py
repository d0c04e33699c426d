"""Writes the nodes of token merging, one behind the other, with names, shapes and types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, describe

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
Size = int | ir.SymbolicDim


class Writer:
    """Puts nodes in front of `before`, None: at the end; their names begin with `prefix`."""

    def __init__(self, graph: ir.Graph, before: ir.Node | None, prefix: str) -> None:
        self._graph, self._before, self._prefix = graph, before, prefix
        self._number = 0

    def write(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[Size],
        dtype: ir.DataType = FLOAT,
        **attributes: object,
    ) -> ir.Value:
        """The output of a new node."""
        return self.write_all(operator, inputs, [(shape, dtype)], **attributes)[0]

    def write_all(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[tuple[Sequence[Size], ir.DataType]],
        **attributes: object,
    ) -> Sequence[ir.Value]:
        """The outputs of a new node, by their shapes and types."""
        self._number += 1
        name = f"{self._prefix}/{operator}_{self._number}"
        node = ir.node(operator, inputs, attributes, num_outputs=len(outputs), name=name)  # type: ignore[arg-type]
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        for index, (value, (shape, dtype)) in enumerate(zip(node.outputs, outputs, strict=True)):
            label = name if len(outputs) == 1 else f"{name}.{index}"
            describe(value, label, ir.Shape(shape), dtype)
        return node.outputs

    def constant(self, stem: str, data: NDArray[np.generic]) -> ir.Value:
        """A constant of the graph."""
        return add_initializer(self._graph, f"{self._prefix}/{stem}", data)

    def integers(self, stem: str, *numbers: int) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(stem, np.array(numbers, np.int64))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in that type."""
        if value.dtype == dtype:
            return value
        return self.write("Cast", [value], list(value.shape or ()), dtype, to=dtype)


def sizes_of(value: ir.Value) -> list[Size]:
    """The shape of a value that has one, to be changed."""
    assert value.shape is not None
    return list(value.shape)
