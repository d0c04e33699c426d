"""Schedules: how many tokens each block merges, and the work that this saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from vit_edge.export.quantise.layers import multiplications
from vit_edge.runtime.errors import InputError

from .blocks import CannotMergeError, Structure
from .matching import Sides, sizes_of


@dataclass(frozen=True)
class Merging:
    """Tokens that a precision merges, and how its outputs compare with those of its base.

    Attributes:
        base: The precision that it is made from, which merges none.
        tokens: The number that each block merges.
        of: Tokens of an image, without class and register tokens.
        work_saved: Share of the base's multiplications, 0 to 1.
        images: Number of evaluation images that the next two are measured on.
        agreement: Share of the first output's decisions that equal the base's; None for kinds of
            output without decisions.
        rms_error: RMS error of the first output, relative to its scale.
    """

    base: str
    tokens: tuple[int, ...]
    of: int
    work_saved: float
    images: int
    agreement: float | None
    rms_error: float

    def __str__(self) -> str:
        schedule = " ".join(map(str, self.tokens))
        alike = f"error {self.rms_error:.2g} beside {self.base}"
        if self.agreement is not None:
            alike = f"{self.agreement:.2%} agreement with {self.base}"
        return (
            f"{sum(self.tokens)} of {self.of} tokens merged ({schedule}, block by block), "
            f"{self.work_saved:.0%} of {self.base}'s work saved, {alike}"
        )


AUTO = "auto"
Schedule = tuple[int, ...]
"""Number of tokens that each block merges, in the order of the blocks."""
CHUNKS, FIRST = 64, (3, 6, 12)
"""Schedules grow by chunks of 1 / `CHUNKS` of the tokens; a block begins with 3, 6 or 12 chunks."""
STEP, STEP_AT_LEAST = 0.05, 15_000_000
"""The time that a step itself takes, expressed as work: a share of a block's work, plus a number of
multiplications. Measured in OpenVINO at batch 1: 4 % of a block of a ViT-B/16, 0.08 ms of one with
128 channels.
"""
Asked = str | int | Schedule
"""`AUTO`, one number of tokens for all blocks, or one for each block."""


def parse_merge(value: object) -> Asked:
    """Reads `auto`, `8`, `8,8,0,4`, a number or a sequence of them. Raises InputError."""
    problem = InputError(
        f"merge is {value!r}: give auto, the tokens that every block merges (8), or those of each "
        "block (8,8,0,4)"
    )
    if isinstance(value, str):
        if value == AUTO:
            return AUTO
        parts: Sequence[object] = value.split(",")
        if not all(str(part).strip().isdecimal() for part in parts):
            raise problem
        numbers = tuple(int(str(part)) for part in parts)
        value = numbers[0] if len(numbers) == 1 else numbers
    if isinstance(value, bool) or not isinstance(value, (int, Sequence)):
        raise problem
    counts = (value,) if isinstance(value, int) else tuple(value)
    if not all(type(count) is int and count >= 0 for count in counts) or not any(counts):
        raise problem
    return value if isinstance(value, int) else counts


def as_typed(asked: Asked) -> str:
    """Formats the result of `parse_merge` as it is given on the command line."""
    return ",".join(map(str, asked)) if isinstance(asked, tuple) else str(asked)


def resolve(asked: int | Schedule, structure: Structure) -> Schedule:
    """Returns the schedule that the user asked for. A single number applies to each block, as far
    as that many tokens can be merged there.

    Raises:
        CannotMergeError: for a schedule of more blocks than the model has, or a number of which no
            token can be merged.
    """
    if not isinstance(asked, int):
        if len(asked) > len(structure.blocks):
            raise CannotMergeError(
                f"tokens are given for {len(asked)} blocks, the model has {len(structure.blocks)}"
            )
        return asked + (0,) * (len(structure.blocks) - len(asked))
    fitted = _fitted((asked,) * len(structure.blocks), structure)
    if not any(fitted):
        raise CannotMergeError(
            f"none of its {structure.tokens} tokens can be merged: {structure.special} of them are "
            "class or register tokens"
        )
    return fitted


def tokens_of(schedule: Schedule, structure: Structure) -> list[int]:
    """The number of tokens of the image, and the number after each block's attention."""
    tokens = [structure.tokens]
    for count in schedule:
        tokens.append(tokens[-1] - count)
    return tokens


@dataclass(frozen=True)
class WorkModel:
    """Multiplications for an image, as a function of the number of tokens at each place.

    Attributes:
        structure: The structure of the model.
        fixed: Multiplications that do not depend on merging.
        linear, square: For each place, before the first block's step and behind each block's, the
            multiplications that grow with the number of tokens and with its square, counted with
            all tokens of the image.
    """

    structure: Structure
    fixed: int
    linear: tuple[int, ...]
    square: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.fixed + sum(self.linear) + sum(self.square)

    def saved(self, schedule: Schedule) -> float:
        """The share of the multiplications that a schedule saves, 0 to 1."""
        tokens = tokens_of(schedule, self.structure)
        work = float(self.fixed)
        for count, linear, square in zip(tokens, self.linear, self.square, strict=True):
            share = count / self.structure.tokens
            work += share * linear + share**2 * square
        return 1 - work / max(self.total, 1)


def work_model(graph: ir.Graph, structure: Structure) -> WorkModel:
    """Counts the multiplications of a graph that merges nothing."""
    places = {block.stream: i for i, block in enumerate(structure.blocks, start=1)}
    costs = [[0] * (len(places) + 1) for _ in range(3)]
    place = 0
    for node in graph:
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            costs[min(_order(node, structure.tokens), 2)][place] += multiplications(node)
        place = max([place, *(places[v] for v in node.outputs if v in places)])
    return WorkModel(structure, sum(costs[0]), tuple(costs[1]), tuple(costs[2]))


def _order(node: ir.Node, tokens: int) -> int:
    """The power of the number of tokens with which the work of a product grows."""
    left, right = node.inputs[:2]
    if node.op_type != "MatMul" or left is None or right is None:
        return 0
    order = sum(size == tokens for size in sizes_of(node.outputs[0])[-2:])
    over_tokens = sizes_of(left)[-1] == tokens == sizes_of(right)[-2]
    is_weight = len(sizes_of(right)) < 3
    return min(order, 1) if is_weight else order + over_tokens


def stronger(
    structure: Structure, work: WorkModel, errors: Sequence[Sequence[tuple[int, float]]]
) -> Iterator[Schedule]:
    """Yields schedules that save more and more work; each adds the least error for what it saves.

    Args:
        structure: The structure of the model.
        work: Its multiplications.
        errors: For each block pairs of the tokens merged in it alone and the squared error that
            this causes, in rising order; empty if nothing can be merged.
    """
    chunk = max(1, structure.tokens // CHUNKS)
    most = Sides(structure.tokens, structure.special).most
    first = sorted({min(most, number * chunk) for number in FIRST})
    step = STEP / len(structure.blocks) + STEP_AT_LEAST / max(work.total, 1)
    schedule = (0,) * len(structure.blocks)
    while True:
        best, least = None, float("inf")
        for index, points in enumerate(errors):
            for more in (chunk,) if schedule[index] else first:
                longer = (*schedule[:index], schedule[index] + more, *schedule[index + 1 :])
                longer = _fitted(longer, structure)
                if not points or longer[index] == schedule[index]:
                    continue
                gain = work.saved(longer) - work.saved(schedule)
                gain -= 0 if schedule[index] else step
                cost = _errors(errors, longer) - _errors(errors, schedule)
                if gain > 0 and cost / gain < least:
                    best, least = longer, cost / gain
        if best is None:
            return
        schedule = best
        yield schedule


def _fitted(schedule: Schedule, structure: Structure) -> Schedule:
    """Limits a schedule to the tokens that can be merged in each block."""
    fitted, tokens = list[int](), structure.tokens
    for count, block in zip(schedule, structure.blocks, strict=True):
        most = Sides(tokens, structure.special).most if block.merges else 0
        fitted.append(min(count, most))
        tokens -= fitted[-1]
    return tuple(fitted)


def _errors(errors: Sequence[Sequence[tuple[int, float]]], schedule: Schedule) -> float:
    """The squared error of a schedule: the sum of those of its blocks."""
    blocks = zip(errors, schedule, strict=True)
    return sum(_error(points, count) for points, count in blocks if count)


def _error(points: Sequence[tuple[int, float]], count: int) -> float:
    """The squared error of `count` tokens, inter- or extrapolated from the measured points."""
    known = [(0, 0.0), *points]
    for (low, first), (high, second) in pairwise(known):
        if count <= high:
            return first + (second - first) * (count - low) / (high - low)
    (low, first), (high, second) = known[-2:]
    return second + 2 * (second - first) * (count - high) / (high - low)
