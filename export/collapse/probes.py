"""Probes of a lowered ViT: its residual stream, the Linears inside each branch, its output.

The probes are found by structure, in the fp32 graph; lowerings keep the names of its tensors. The
stream is never rescaled, whatever a lowering moves between LayerNorms, Linears and columns of V, so
that two graphs can be compared there, and a graph can be cut.

Smoothing may scale columns of a Linear, such as those of V, and the rows of the Linear that reads
them by the inverse. Where other columns are fixed, such as those of Q and K beside V, only those
are compared; V by itself is compared after undoing the scales, which the reader's rows tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import array, size_per_image
from vit_edge.export.outputs import JOINED
from vit_edge.export.passes.linears import Linear, as_linear, find_linears
from vit_edge.export.quantise.convolutions import made_of_pixels
from vit_edge.export.quantise.linear_layers import LinearSource, find_linear_layers, find_scalable

EMBEDDING, BRANCH, LINEAR, OUTPUT = "embedding", "branch", "linear", "output"
_CHANNELS_SECOND = ("Conv", "BatchNormalization", "GlobalAveragePool")
QUIET_ROW = 0.25
"""Rows whose RMS is below this part of their weight's are lost in the rounding of 4 bits."""


@dataclass(frozen=True)
class Probe:
    """Tensor of the fp32 graph at which a lowering is compared with it.

    Attributes:
        value: `[batch, ..., channels]`.
        kind: `EMBEDDING` or `BRANCH`: in the residual stream, which is cut there; `LINEAR`: what a
            Linear or a convolution inside a branch gives; `OUTPUT`: of the graph.
        module: The branch or Linear, such as `blocks.0.attn`.
        incoming: Of a `BRANCH`, the stream that it is added to.
        reads: Name of the tensor that the last Linear before it reads; "": none.
        fixed: bool `[channels]`, those that are compared; None: all of them.
        axis: That of the channels: the last one, or the second for a convolution's tensors.
        exact: True if nothing that is quantised lies between the cut before it and the probe.
        reader: The Linear whose rows tell what smoothing scaled the channels by; None: by nothing.
    """

    value: ir.Value
    kind: str
    module: str
    incoming: ir.Value | None = None
    reads: str = ""
    fixed: NDArray[np.bool_] | None = None
    reader: Linear | None = None
    axis: int = -1
    exact: bool = False

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def tokens(self) -> int:
        """Rows of channels that one image has."""
        sizes = list(self.value.shape or [1])
        del sizes[self.axis]
        return prod(map(size_per_image, sizes))

    @property
    def has_channels(self) -> bool:
        """False for joined outputs: a pixel of a map is not a channel."""
        return self.name != JOINED

    @property
    def cut(self) -> bool:
        return self.kind in (EMBEDDING, BRANCH)


def find_probes(graph: ir.Graph) -> list[Probe]:
    """The probes in graph order; without residual Adds only Linears, convolutions and output."""
    probes, cuts = list[Probe](), set[ir.Value]()
    linears = {linear.output: linear for linear in find_linears(graph)}
    scalable, raw = _scalable_columns(graph), made_of_pixels(graph)
    for node in graph:
        value, incoming = node.outputs[0], _incoming(node)
        if incoming is not None:
            start = unsliced(incoming)
            if start not in cuts:
                first = _stream_start(start, cuts, raw)
                probes.insert(len(probes) if cuts else 0, first)
                cuts.add(start)
            probes.append(_branch(node, incoming, linears))
            cuts.add(value)
        elif value in linears and not _ends_branch(value):
            probe = _inside_branch(linears[value], scalable.get(linears[value].node, []))
            if probe is not None:
                probes.append(probe)
        elif node.op_type == "Conv" and node.inputs[0] not in raw and not _ends_branch(value):
            probes.append(_convolution(node))
    output = graph.outputs[0]
    if all(probe.value is not output for probe in probes):
        probes.append(Probe(output, OUTPUT, OUTPUT, exact=_is_exact(output, cuts, raw)))
    return probes


def _is_exact(value: ir.Value, cuts: Collection[ir.Value], raw: Collection[ir.Value]) -> bool:
    """True if no Linear, and no convolution except of the image, lies between cuts and `value`."""
    return not any(
        as_linear(node) is not None or (node.op_type == "Conv" and node.inputs[0] not in raw)
        for node in ancestors(value, cuts)
    )


def unsliced(value: ir.Value) -> ir.Value:
    """The tensor that `value` is the class token of, or itself."""
    node = value.producer()
    while node is not None and node.op_type == "Slice" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def ancestors(value: ir.Value, cuts: Collection[ir.Value] = ()) -> Iterator[ir.Node]:
    """The nodes that `value` depends on, each once, up to those that make `cuts`."""
    seen: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(v.producer() for v in node.inputs if v is not None and v not in cuts)


def _incoming(node: ir.Node) -> ir.Value | None:
    """The stream's side of a residual Add: of its two inputs the one that the other depends on."""
    sides = [v for v in node.inputs if v is not None and v.producer() is not None]
    if node.op_type != "Add" or len(sides) != 2 or any(len(v.shape or ()) < 3 for v in sides):
        return None
    if sides[0].shape != sides[1].shape:
        return None
    for stream, branch in (sides, sides[::-1]):
        source = unsliced(stream).producer()
        if branch is not stream and any(node is source for node in ancestors(branch)):
            return stream
    return None


def _stream_start(value: ir.Value, cuts: Collection[ir.Value], raw: Collection[ir.Value]) -> Probe:
    """The probe where the stream begins, or begins anew, such as after downsampling. After Linears,
    or convolutions other than that of the patches, it is not exact.
    """
    node = value.producer()
    module = EMBEDDING if not cuts or node is None else str(node.name).rpartition("/")[0]
    exact = _is_exact(value, cuts, raw)
    kind = EMBEDDING if exact else BRANCH
    return Probe(value, kind, module, axis=_channel_axis(value), exact=exact)


def _channel_axis(value: ir.Value) -> int:
    """1 for a tensor `[B, C, H, W]` of convolutions, -1 for others."""
    node = value.producer()
    sources = [] if node is None else [v.producer() for v in node.inputs if v is not None]
    users = [node, *sources, *value.consumers()]
    near = any(user is not None and user.op_type in _CHANNELS_SECOND for user in users)
    return 1 if near and len(value.shape or ()) > 3 else -1


def _ends_branch(value: ir.Value) -> bool:
    """True if a Linear's output goes into the stream, which has probes of its own."""
    return any(_incoming(user) is not None for user in value.consumers())


def _branch(add: ir.Node, incoming: ir.Value, linears: dict[ir.Value, Linear]) -> Probe:
    ends = [linears[v] for v in add.inputs if v is not None and v in linears]
    module = ends[0].name.rpartition(".")[0] if ends else ""
    reads = str(ends[0].activation.name) if ends else ""
    value = add.outputs[0]
    axis = _channel_axis(value)
    return Probe(value, BRANCH, module or str(add.name), incoming, reads, axis=axis)


def _inside_branch(linear: Linear, scalable: Sequence[_Scalable]) -> Probe | None:
    """The probe of a Linear; None where smoothing may scale all columns and nothing tells by what,
    so that only the end of the branch can be judged.
    """
    fixed, reader = np.ones(array(linear.weight).shape[1], np.bool_), None
    for part in scalable:
        fixed[part.columns] = False
    if not fixed.any():
        reader = scalable[0].reader
        fixed = _tells_scales(reader) if scalable[0].columns == slice(None) else fixed
    if not fixed.any():
        return None
    reads = str(linear.activation.name)
    return Probe(linear.output, LINEAR, linear.name, reads=reads, fixed=fixed, reader=reader)


def _convolution(node: ir.Node) -> Probe:
    """The probe of a convolution, which smoothing leaves alone."""
    name, reads = str(node.name), node.inputs[0]
    module = name.rpartition("/")[0] or name
    return Probe(node.outputs[0], LINEAR, module, reads=str(reads and reads.name), axis=1)


def _tells_scales(reader: Linear) -> NDArray[np.bool_]:
    """The rows of a weight that are large enough to tell their scale in spite of rounding."""
    rows = np.square(array(reader.weight).astype(np.float64)).mean(axis=1)
    large: NDArray[np.bool_] = rows > QUIET_ROW**2 * rows.mean()
    return large


@dataclass(frozen=True)
class _Scalable:
    """Columns of a Linear that smoothing may scale, and a Linear that reads them."""

    columns: slice
    reader: Linear


def _scalable_columns(graph: ir.Graph) -> dict[ir.Node, list[_Scalable]]:
    """The columns of each Linear that smoothing may scale, such as those of V."""
    columns: dict[ir.Node, list[_Scalable]] = {}
    for layer in find_linear_layers(graph):
        source = find_scalable(layer)
        if isinstance(source, LinearSource):
            part = _Scalable(source.columns, layer.linears[0])
            columns.setdefault(source.linear.node, []).append(part)
    return columns
