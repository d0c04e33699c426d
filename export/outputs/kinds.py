"""Chooses the outputs to export, and finds their kinds where the user does not say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

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
)

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
    """An output of a model with its kind, and what the kind is known by, in words."""

    spec: OutputSpec
    origin: str


def parse_outputs(arguments: Sequence[str]) -> dict[str, str | None]:
    """Parses `NAME` and `NAME=KIND` to kinds by name; None: to be found.

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
        shapes: Those of one image, `[1, ...]`, of the outputs that can be exported, by name.
        asked: Kinds by name, as `parse_outputs` gives them; empty: all outputs.
        image: Height and width of the input.

    Raises:
        InputError: if the model has no such output, or it cannot be of the kind.
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
    """Returns an output's name with an underscore for each character that no name has."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-")[:100] or "output"


def _find_kind(value: ir.Value, shape: tuple[int, ...], image: tuple[int, int]) -> tuple[str, str]:
    """Returns the kind of an output, and what it is known by."""
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
    """Returns the node that computes the value, behind those that only move numbers."""
    node = value.producer()
    while node is not None and node.op_type in _LAYOUT:
        first = node.inputs[0]
        node = None if first is None else first.producer()
    return node


def _is_linear(node: ir.Node | None) -> bool:
    """True for a product with a constant, and for the bias behind one."""
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
