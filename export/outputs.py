"""Outputs of a model during an export: their names and kinds, the scales that their errors are
relative to, and one vector that joins them all.

Searches and checks compare graphs by one number. The vector of several outputs has them side by
side, each divided by its scale and by the root of its relative size, so that the mean square over
the vector is the mean over the outputs of their relative mean squares.

A scale is the spread over the evaluation images, which tells what difference matters. Where these
are all alike, such as frames of a fixed camera, their spread says nothing; then the spread over
artificial images that differ as much as possible sets a lower limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import (
    BOXES,
    EMBEDDING,
    KINDS,
    LABEL_PROBABILITIES,
    LOGITS,
    MAP,
    PROBABILITIES,
    TOKENS,
    VALUE,
    OutputSpec,
    image_centred,
    spread,
    unpack,
)

from .graph_edit import add_initializer, describe

__all__ = [
    "JOINED",
    "FoundOutput",
    "choose_outputs",
    "find_scales",
    "join_outputs",
    "join_values",
    "parse_outputs",
    "safe_name",
]

JOINED = "joined_outputs"
"""Name of the joined vector."""


def _is_vector(outputs: Sequence[OutputSpec]) -> bool:
    """True if there is nothing to join: a single output that is a vector already."""
    return len(outputs) == 1 and len(outputs[0].shape) == 1


def _factors(outputs: Sequence[OutputSpec]) -> list[float]:
    """Factor of each output in the vector."""
    if len(outputs) == 1:
        return [1.0]
    width = sum(output.size for output in outputs)
    shares = [width / (len(outputs) * output.size) for output in outputs]
    return [sqrt(s) / (o.scale or 1.0) for s, o in zip(shares, outputs, strict=True)]


def join_outputs(model: ir.Model, outputs: Sequence[OutputSpec]) -> ir.Model:
    """Returns `model` with one output float32 `[batch, width]`: itself where it has that already,
    else a copy.
    """
    if _is_vector(outputs):
        return model
    joined = model.clone()
    graph = joined.graph
    batch = next((v.shape[0] for v in graph.outputs if v.shape), "batch")
    shape = add_initializer(graph, f"{JOINED}/shape", np.array([0, -1], np.int64))
    parts = []
    values = {str(value.name): value for value in graph.outputs}
    for output, factor in zip(outputs, _factors(outputs), strict=True):
        name, value = f"{JOINED}/{output.name}", values[output.name]
        if not output.shape:  # [N] has no second dimension to keep
            wider = add_initializer(graph, f"{name}/shape", np.array([-1, 1], np.int64))
            node = ir.node("Reshape", [value, wider], name=name)
        else:
            node = ir.node("Reshape", [value, shape], name=name)
        size = ir.Shape([batch, output.size])
        flat = describe(node.outputs[0], name, size, ir.DataType.FLOAT)
        constant = add_initializer(graph, f"{name}/factor", np.array(factor, np.float32))
        scaled = ir.node("Mul", [flat, constant], name=f"{name}/Mul")
        describe(scaled.outputs[0], f"{name}/scaled", size, ir.DataType.FLOAT)
        graph.extend([node, scaled])
        parts.append(scaled.outputs[0])
    concat = ir.node("Concat", parts, {"axis": 1}, name=JOINED)
    width = sum(output.size for output in outputs)
    end = describe(concat.outputs[0], JOINED, ir.Shape([batch, width]), ir.DataType.FLOAT)
    graph.append(concat)
    graph.outputs[:] = [end]
    return joined


def join_values(
    packed: NDArray[np.float32], outputs: Sequence[OutputSpec]
) -> tuple[NDArray[np.float32], float]:
    """Returns packed outputs `[N, width]` as the vectors that a joined graph gives, and the scale
    that their errors are relative to.
    """
    if len(outputs) == 1:
        return packed, outputs[0].scale or spread(packed)
    views = unpack(packed, outputs)
    parts = [
        views[o.name].reshape(len(packed), -1) * np.float32(factor)
        for o, factor in zip(outputs, _factors(outputs), strict=True)
    ]
    return np.concatenate(parts, axis=1), 1.0


_EMBEDDING_NAMES = re.compile(
    r"(^|_|\.)(embeds?|embeddings?|features?|feats?|pooled|pooler|pooler_output|cls|cls_token|"
    r"clstoken|class_token|x_norm_clstoken|descriptors?)($|_|\.)"
)
_MAP_NAMES = re.compile(r"depth|mask|segm|saliency|heat_?map|\bmaps?\b|flow|normals|attention_map")
_BOX_NAMES = re.compile(r"box")
_LOGIT_NAMES = re.compile(r"logit|score|class_?(ification)?_?(head)?$|\bprobs?\b")
_LAYOUT = (
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Transpose", "Slice",
    "Gather", "Dropout",
)  # fmt: skip


@dataclass(frozen=True)
class FoundOutput:
    """An output of a model with its kind, and what the kind was derived from, in words."""

    spec: OutputSpec
    origin: str


def parse_outputs(arguments: Sequence[str]) -> dict[str, str | None]:
    """Parses `NAME` and `NAME=KIND` to kinds by name; None where the kind is to be found.

    Raises:
        InputError: for an unknown kind, or a name that is given twice.
    """
    kinds: dict[str, str | None] = {}
    for argument in arguments:
        name, equals, kind = argument.partition("=")
        if equals and kind not in KINDS:
            raise InputError(
                f"--output {argument}: unknown kind {kind!r}: choose from {', '.join(KINDS)}"
            )
        if name in kinds:
            raise InputError(f"--output {name}: it is given twice")
        kinds[name] = kind or None
    return kinds


def choose_outputs(
    graph: ir.Graph,
    shapes: Mapping[str, tuple[int, ...]],
    asked: Mapping[str, str | None],
    image: tuple[int, int],
) -> tuple[FoundOutput, ...]:
    """Chooses the outputs of a graph to export, in its order.

    Args:
        graph: The model's.
        shapes: Shapes for one image, `[1, ...]`, of the outputs that can be exported, by name.
        asked: Kinds by name, as `parse_outputs` gives them; empty: all outputs.
        image: Height and width of the input.

    Raises:
        InputError: if the model has no such output, or an output cannot be of its kind.
    """
    unknown = [name for name in asked if name not in shapes]
    if unknown:
        raise InputError(
            f"--output {unknown[0]}: the model puts out {', '.join(shapes) or 'nothing usable'}"
        )
    chosen = []
    for value in graph.outputs:
        name = str(value.name)
        if name not in shapes or (asked and name not in asked):
            continue
        shape = shapes[name][1:]
        kind, origin = asked.get(name), "given"
        if kind is None:
            kind, origin = _find_kind(value, shape, image)
        try:
            chosen.append(FoundOutput(OutputSpec(safe_name(name), kind, shape), origin))
        except ValueError as error:
            raise InputError(f"--output {name}: {error}") from None
    return tuple(chosen)


def safe_name(name: str) -> str:
    """Returns an output's name with underscores for characters that names may not have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-")[:100] or "output"


def _find_kind(value: ir.Value, shape: tuple[int, ...], image: tuple[int, int]) -> tuple[str, str]:
    """Returns the kind of an output, and what it was derived from."""
    name = str(value.name).lower()
    if len(shape) == 0:
        return VALUE, "one number"
    if len(shape) == 3:
        return MAP, "its shape"
    if len(shape) == 2:
        if shape[-1] == 4 and _BOX_NAMES.search(name):
            return BOXES, "its name"
        if _MAP_NAMES.search(name):
            return MAP, "its name"
        if shape == image:
            return MAP, "its shape is the image's"
        return TOKENS, "its shape"
    if len(shape) > 3:
        raise InputError(
            f"the output {value.name} has {len(shape) + 1} dimensions, more than any kind of "
            "output: leave it out by naming the others with --output"
        )
    return _find_kind_of_vector(value, name, shape[0])


def _find_kind_of_vector(value: ir.Value, name: str, size: int) -> tuple[str, str]:
    end = _end(value)
    last = "" if end is None else end.op_type
    if last == "Softmax":
        return PROBABILITIES, "the Softmax at its end"
    if last == "Sigmoid" and size > 1:
        return LABEL_PROBABILITIES, "the Sigmoid at its end"
    if size == 1:
        return VALUE, "one number"
    if _LOGIT_NAMES.search(name):
        return LOGITS, "its name"
    if _EMBEDDING_NAMES.search(name):
        return EMBEDDING, "its name"
    if _is_linear(end):
        return LOGITS, "assumed from the Linear at its end; --output NAME=KIND states it"
    return EMBEDDING, "assumed, as it ends in no Linear; --output NAME=KIND states it"


def _end(value: ir.Value) -> ir.Node | None:
    """Returns the node that computes the value, skipping those that only move numbers."""
    node = value.producer()
    while node is not None and node.op_type in _LAYOUT:
        first = node.inputs[0]
        node = None if first is None else first.producer()
    return node


def _is_linear(node: ir.Node | None) -> bool:
    """True for a product with a constant, and for the Add of a bias to a product."""
    if node is None or node.op_type in ("Gemm", "Conv"):
        return node is not None
    if node.op_type == "Add":
        return any(
            v is not None and (n := v.producer()) is not None and n.op_type in ("MatMul", "Gemm")
            for v in node.inputs
        )
    return node.op_type == "MatMul" and any(
        v is not None and v.const_value is not None for v in node.inputs
    )


VARIED = 8
"""Number of images that differ as much as possible."""
_ALIKE = 0.1
"""Lower limit of a scale, relative to the spread over the varied images."""
_RELATIVE_BOXES = 2.0
"""Coordinates up to this are relative to the image, others are in pixels."""


def varied_images(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Returns `VARIED` images uint8 `[N, *shape]`: black, white, and noise from coarse to fine."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    images = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]
    for number in range(VARIED - len(images)):
        cell = max(1, min(height, width) >> (number + 1))
        size = (-(-height // cell), -(-width // cell), channels)
        coarse = rng.integers(0, 256, size, dtype=np.uint8)
        fine = coarse.repeat(cell, axis=0).repeat(cell, axis=1)
        images.append(fine[:height, :width])
    return np.stack(images)


def find_scales(
    outputs: Sequence[OutputSpec],
    evaluation: NDArray[np.float32],
    varied: NDArray[np.float32],
    image_side: int,
) -> tuple[OutputSpec, ...]:
    """Returns the outputs with their scales.

    Args:
        outputs: The outputs that the packed values hold.
        evaluation: The reference's packed outputs of the evaluation images, `[N, width]`.
        varied: Those of `varied_images`; images with outputs that are not finite, which some models
            give there, are left out.
        image_side: The longer side of an image in pixels, for boxes.
    """
    own, others = unpack(evaluation, outputs), unpack(varied, outputs)
    scaled = []
    for output in outputs:
        values, beside = own[output.name], others[output.name]
        if output.kind == BOXES:
            largest = float(np.abs(values).max())
            scale = 1.0 if largest <= _RELATIVE_BOXES else float(image_side)
        else:
            about_mean = _about_mean(values)
            scale = max(about_mean, _ALIKE * _about_mean(beside)) or spread(values)
        scaled.append(replace(output, scale=scale))
    return tuple(scaled)


def _about_mean(values: NDArray[np.float32]) -> float:
    finite = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    return float(np.sqrt((image_centred(finite) ** 2).mean())) if len(finite) > 1 else 0.0
