"""Centres one-sided activations, so that a symmetric grid does not waste half of its levels.

GELU outputs lie between -0.17 and their largest value, and SmoothQuant cannot scale through a GELU.
Subtracting a constant, which the bias of the Linear restores, centres the range and halves the
step. It is one more elementwise operation, which compilers fuse with the GELU.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import add_initializer, describe

from .grid import Floats, Grid, IntegerGrid, representable_scale
from .sites import Site

_ONE_SIDED = 0.25
"""Activations whose least value is closer to zero than this share of the largest are shifted."""


def shift_of(site: Site, rows: Floats, amax: np.float32, grid: Grid) -> tuple[np.float32, Floats]:
    """Finds what to subtract from a site whose best symmetric range is `amax`, and the scale then.

    Zero too where a Linear has no bias that could restore it.
    """
    if all(linear.bias is not None for linear in site.linears):
        return centre(rows, amax, grid)
    return np.float32(0), representable_scale(np.array(amax), grid)


def centre(rows: Floats, amax: np.float32, grid: Grid) -> tuple[np.float32, Floats]:
    """The shift that centres `rows`, whose best symmetric range is `amax`, and the scale then.

    It is a multiple of the scale, so that zero, the most frequent value, stays exact. Zero where
    the activations have two sides or the grid is finest around zero.
    """
    least = rows.min()
    middle, half = (amax + least) / 2, (amax - least) / 2
    two_sided = middle <= 0 or -least > _ONE_SIDED * amax
    if two_sided or not isinstance(grid, IntegerGrid):
        return np.float32(0), representable_scale(np.array(amax), grid)
    scale = representable_scale(np.array(half, np.float32), grid)
    return np.float32(np.rint(middle / scale) * scale), scale


def divide(graph: ir.Graph, value: ir.Value, factor: Floats) -> ir.Value:
    """`value / factor`, `factor` `[K]` for the channels on the last axis, as a product."""
    return _behind(graph, value, "Mul", "scaled", (1 / factor).astype(np.float32))


def subtract(graph: ir.Graph, value: ir.Value, shift: np.float32) -> ir.Value:
    """`value - shift`."""
    return _behind(graph, value, "Sub", "shifted", np.array(shift, np.float32))


def _behind(graph: ir.Graph, value: ir.Value, kind: str, done: str, constant: Floats) -> ir.Value:
    """Adds a node behind `value`, which is read on as it is."""
    name, producer = f"{str(value.name).removesuffix('@scaled')}@{done}", value.producer()
    assert producer is not None
    node = ir.node(kind, [value, add_initializer(graph, f"{name}/by", constant)], name=name)
    graph.insert_after(producer, node)
    return describe(node.outputs[0], node.name, value.shape, ir.DataType.FLOAT)
