"""Checks of a lowered graph's structure, which do not run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from vit_edge.export.graph_edit import array
from vit_edge.export.measure import SIXTEEN_BIT
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.quantise.float4_qdq import QUANTISER, dequantised_scales

from .limits import STRUCTURE, Fault
from .probes import Probe, ancestors

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_PASSED_OVER = ("Cast", "Slice", "Identity")


def check_stream(lowered: ir.Graph, probes: Sequence[Probe]) -> Iterator[Fault]:
    """Finds tensors of the residual stream that are missing, unused or of another shape."""
    values = {str(v.name): v for node in lowered for v in node.outputs}
    used = {node for output in lowered.outputs for node in ancestors(output)}
    for probe in probes:
        value = values.get(probe.name)
        if not probe.cut:
            continue
        if value is None:
            what = "its output is not in the graph: a dropped layer"
        elif value.producer() not in used:
            what = "no output depends on it: a dropped layer"
        elif _sizes(value) != _sizes(probe.value):
            what = f"its output has shape {value.shape}, in fp32 {probe.value.shape}"
        else:
            continue
        yield Fault(STRUCTURE, probe.module, probe.name, what)


def check_quantised_stream(
    lowered: ir.Graph, fp32: ir.Graph, probes: Sequence[Probe]
) -> Iterator[Fault]:
    """Finds Q/DQ on the residual stream, whose outliers no 8-bit grid holds."""
    stream = {probe.name: probe.module for probe in probes if probe.cut}
    read = {str(linear.activation.name) for linear in find_linears(fp32)}
    read |= {str(n.inputs[0].name) for n in fp32 if n.op_type == "Conv" and n.inputs[0] is not None}
    for node in lowered:
        if node.op_type in (QUANTISERS[0], QUANTISER):
            source = str(_origin(node.inputs[0]).name).partition("@")[0]
            if source in stream and source not in read:
                yield _quantised_stream(stream[source], source)
        name = str(node.outputs[0].name)
        if name in stream and node.op_type == "Add":
            producers = [_origin(v).producer() for v in node.inputs if v is not None]
            if any(p is not None and p.op_type == "DequantizeLinear" for p in producers):
                yield _quantised_stream(stream[name], name)


def check_layer_norms(lowered: ir.Graph, fp32: ir.Graph) -> Iterator[Fault]:
    """Finds LayerNorms that are not one operator in 32 bits: their squared input may overflow."""
    norms = {node.name: node for node in lowered if node.op_type == "LayerNormalization"}
    for norm in fp32:
        if norm.op_type != "LayerNormalization":
            continue
        module, tensor = str(norm.name).rpartition("/")[0], str(norm.outputs[0].name)
        node = norms.get(norm.name)
        if node is None:
            what = "its LayerNormalization is missing or decomposed, and its square may overflow"
        elif node.outputs[0].dtype in SIXTEEN_BIT:
            what = "its LayerNormalization runs in 16 bits, where its square may overflow"
        else:
            continue
        yield Fault(STRUCTURE, module, tensor, what)


def check_grids(lowered: ir.Graph) -> Iterator[Fault]:
    """Finds Q/DQ pairs that TensorRT rejects: it needs constant, equal scales and zero points 0."""
    for node in lowered:
        if node.op_type not in QUANTISERS:
            continue
        problem = _grid_problem(node)
        if problem is not None:
            tensor = str(node.inputs[0] and node.inputs[0].name)
            module = str(node.name).partition("/")[0].removesuffix(".weight")
            yield Fault(STRUCTURE, module, tensor, problem)


def _grid_problem(node: ir.Node) -> str | None:
    block_scales = dequantised_scales(node)
    if block_scales is not None:
        return _block_problem(node, block_scales)
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or not scale.is_initializer():
        return f"the scale of {node.name} is not a constant"
    scales = array(scale).astype(np.float32)
    if not (np.isfinite(scales) & (scales > 0)).all():
        return f"the scale of {node.name} is {scales.min():.3g} at worst, not positive and finite"
    if zero is not None and not zero.is_initializer():
        return f"the zero point of {node.name} is not a constant"
    if zero is not None and np.any(array(zero).astype(np.float32)):
        largest = float(np.abs(array(zero).astype(np.float32)).max())
        return f"the zero point of {node.name} is {largest:g}, not 0"
    pair = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node.op_type == "DequantizeLinear" and pair is not None and pair.op_type == QUANTISERS[0]:
        return _pair_problem(node, pair, scales)
    return None


def _block_problem(node: ir.Node, first: ir.Node) -> str | None:
    """The problem of NVFP4's block scales, which `first` dequantises; None if there is none. The
    scale of `first` itself is checked like that of any grid.
    """
    numbers, step = first.inputs[:2]
    if first.op_type != "DequantizeLinear" or numbers is None:
        return f"the scale of {node.name} is neither a constant nor in blocks"
    if numbers.is_initializer():
        scales = array(numbers).astype(np.float32)
        if (np.isfinite(scales) & (scales > 0)).all():
            return None
        return f"a block scale of {node.name} is {scales.min():.3g}, not positive and finite"
    quantiser = numbers.producer()
    if quantiser is None or quantiser.op_type != QUANTISER:
        return f"the block scales of {node.name} are computed by no quantiser"
    other = quantiser.inputs[1]
    constants = (step, other)
    if not all(value is not None and value.is_initializer() for value in constants):
        return f"the scale of {quantiser.name} is not a constant"
    one, two = (array(value).astype(np.float32) for value in constants if value is not None)
    if np.allclose(one, two, rtol=1e-3):
        return None
    ratio = float(one.max() / two.max())
    return f"{node.name} scales by {ratio:.3g} times what {quantiser.name} divided by"


def _pair_problem(node: ir.Node, pair: ir.Node, scales: np.ndarray) -> str | None:
    other = pair.inputs[1]
    if other is None or not other.is_initializer():
        return None  # `_grid_problem` of that node reports it
    others = array(other).astype(np.float32)
    if others.shape == scales.shape and np.allclose(others, scales, rtol=1e-3):
        return None
    ratio = float(scales.max() / others.max())
    return f"{node.name} scales by {ratio:.3g} times what its QuantizeLinear divided by"


def _quantised_stream(module: str, tensor: str) -> Fault:
    what = "the residual stream carries Q/DQ here: its outliers take the whole grid"
    return Fault(STRUCTURE, module, tensor, what)


def _origin(value: ir.Value | None) -> ir.Value:
    """The tensor that `value` comes from, before any Cast, Slice or Identity."""
    assert value is not None
    node = value.producer()
    while node is not None and node.op_type in _PASSED_OVER and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _sizes(value: ir.Value) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in value.shape or ()]
