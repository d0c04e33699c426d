"""Named outputs of a model: kinds, places in the array that an engine fills, and comparison.

An engine gives one array float32 `[N, width]` in which the outputs of an image lie side by side, in
the order of `EngineSpec.outputs`; `unpack` finds them again without a copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOGITS, PROBABILITIES, VALUE, EMBEDDING = "logits", "probabilities", "value", "embedding"
MULTILABEL, LABEL_PROBABILITIES = "multilabel", "label_probabilities"
TOKENS, MAP, BOXES = "tokens", "map", "boxes"

Floats = NDArray[np.float32]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MAX_DIMENSION = 1 << 16
_MAX_SCALE = 1e12
_TINY = 1e-30
_NEIGHBOURS = 5
_MOST_NEIGHBOURED = 2048
"""Most images among which nearest neighbours are sought: their similarities are a square matrix."""
_HARDLY_DIFFERS = 0.1
"""Spread over the compared images, relative to the output's scale, below which a cosine of
image-centred values would only compare rounding errors."""


@dataclass(frozen=True)
class Kind:
    """Meaning of an output.

    Attributes:
        name: `logits`, `map` and so on.
        dimensions: Numbers of dimensions that it may have for one image.
        about: What the values are.
        classes: True if each image has one class, the largest of the values.
        labels: True if each value is that of a label, which applies independently of the others.
        decide: Turns values `[N, *shape]` into the decisions that users derive from them, int64 or
            bool; None if users read the numbers.
    """

    name: str
    dimensions: tuple[int, ...]
    about: str
    classes: bool = False
    labels: bool = False
    decide: Callable[[Floats], NDArray[Any]] | None = None


def _largest(values: Floats) -> NDArray[Any]:
    classes: NDArray[Any] = values.argmax(axis=1)
    return classes


def _largest_of_several(values: Floats) -> NDArray[Any]:
    """Returns the class of each pixel; for a map of one channel there are no decisions."""
    several = values.ndim == 4 and values.shape[1] > 1
    return values.argmax(axis=1) if several else np.zeros((len(values), 0), np.int64)


def _nearest(values: Floats) -> NDArray[Any]:
    similar = _similarities(values)
    return similar.argmax(axis=1) if len(values) > 1 else np.zeros(len(values), np.int64)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(LOGITS, (1,), "scores of classes before softmax", classes=True, decide=_largest),
        Kind(PROBABILITIES, (1,), "probabilities of classes", classes=True, decide=_largest),
        Kind(
            MULTILABEL, (1,), "scores of labels before sigmoid", labels=True, decide=lambda v: v > 0
        ),
        Kind(
            LABEL_PROBABILITIES,
            (1,),
            "probabilities of labels",
            labels=True,
            decide=lambda v: v > 0.5,
        ),
        Kind(VALUE, (0, 1), "numbers"),
        Kind(EMBEDDING, (1,), "a vector for search and comparison", decide=_nearest),
        Kind(TOKENS, (2,), "a vector for each token"),
        Kind(MAP, (2, 3), "numbers for each pixel", decide=_largest_of_several),
        Kind(BOXES, (2,), "boxes of four coordinates"),
    )
}


@dataclass(frozen=True)
class OutputSpec:
    """Output of every engine of a bundle: float32 `[N, *shape]`.

    Attributes:
        name: The tensor's name.
        kind: A key of `KINDS`.
        shape: Shape for one image; empty for a single number.
        scale: Size of a difference between images: the root mean square of the reference's values
            about their mean over images (for boxes: the image's side); errors are relative to it.
            None in older bundles, where it is computed from the golden samples.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    scale: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"output name {self.name[:60]!r} is not made of letters and digits")
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ValueError(
                f"unknown kind of output {self.kind[:60]!r}: choose from {', '.join(KINDS)}"
            )
        if len(self.shape) not in kind.dimensions:
            raise ValueError(f"{self.name} {list(self.shape)} cannot be of the kind {self.kind}")
        if self.kind == BOXES and self.shape[-1] != 4:
            raise ValueError(f"{self.name} {list(self.shape)} has no boxes of four coordinates")
        if not all(0 < size <= _MAX_DIMENSION for size in self.shape):
            raise ValueError(f"sizes {list(self.shape)} are not between 1 and {_MAX_DIMENSION}")
        if self.scale is not None and not 0 < self.scale <= _MAX_SCALE:
            raise ValueError(f"scale {self.scale} of {self.name} is not in (0, {_MAX_SCALE}]")

    @property
    def size(self) -> int:
        """Number of values for one image."""
        return math.prod(self.shape)

    @property
    def classifies(self) -> bool:
        """True if each image gets one class."""
        return KINDS[self.kind].classes

    @property
    def is_of_labels(self) -> bool:
        """True if each value is that of a label, which applies independently of the others."""
        return KINDS[self.kind].labels


def unpack(packed: Floats, outputs: Sequence[OutputSpec]) -> dict[str, Floats]:
    """Returns the outputs `[N, *shape]` by name: views of `packed`, `[N, width]`."""
    views, start = {}, 0
    for output in outputs:
        end = start + output.size
        views[output.name] = packed[:, start:end].reshape(len(packed), *output.shape)
        start = end
    return views


def pack(arrays: Sequence[Floats]) -> Floats:
    """Returns arrays `[N, ...]` side by side, `[N, width]`; a single one is not copied."""
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return arrays[0]
    flat = [array.reshape(len(array), -1) for array in arrays]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)


@dataclass(frozen=True)
class Metrics:
    """See `runtime.manifest.Accuracy` for the definitions; rates are between 0 and 1."""

    top1: float | None
    reference_top1: float | None
    agreement: float | None
    cosine: float
    logit_error: float
    rms_error: float
    average_precision: float | None = None


def compare(
    packed: Floats,
    reference: Floats,
    outputs: Sequence[OutputSpec],
    labels: NDArray[np.int64] | None = None,
    population: Floats | None = None,
) -> dict[str, Metrics]:
    """Compares the outputs of an engine with the reference's, each according to its kind.

    Args:
        packed: float32 `[N, width]`.
        reference: Likewise.
        outputs: Descriptions of the outputs in these arrays.
        labels: Classes int64 `[N]`, or None.
        population: Larger set of reference values that `reference` is part of, from which outputs
            without a scale get one: a few images may hardly differ.

    Returns:
        Metrics by output name. Values that are not finite agree with nothing: their cosine is 0 and
        their errors are infinite.
    """
    mine, theirs = unpack(packed, outputs), unpack(reference, outputs)
    of_all = theirs if population is None else unpack(population, outputs)
    return {
        output.name: compare_output(
            mine[output.name],
            theirs[output.name],
            output,
            labels,
            output.scale or spread(of_all[output.name]),
        )
        for output in outputs
    }


def compare_output(
    values: Floats,
    reference: Floats,
    output: OutputSpec,
    labels: NDArray[np.int64] | None,
    scale: float,
) -> Metrics:
    """Compares one output `[N, *shape]` with the reference's, errors relative to `scale`."""
    flat, expected = values.reshape(len(values), -1), reference.reshape(len(values), -1)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    error = np.where(finite[:, None], flat.astype(np.float64) - expected, np.inf)
    rms = float(np.sqrt((error**2).mean())) / scale
    if output.kind == TOKENS:  # the worst token, over images and channels
        each = np.sqrt((error.reshape(values.shape) ** 2).mean(axis=(0, 2)))
        worst = float(each.max()) / scale
    elif output.kind == BOXES:
        worst = float(np.abs(error).max()) / scale
    else:
        worst = float(np.abs(error).max()) / max(float(np.ptp(reference)), scale)
    top1 = reference_top1 = precision = None
    agreement = _agreement(values, reference, output, finite)
    if labels is not None and output.classifies:
        top1 = float((_largest(_filled(values, finite)) == labels)[finite].sum() / len(labels))
        reference_top1 = float((_largest(reference) == labels).mean())
    elif labels is not None and output.kind == EMBEDDING and 1 < len(labels) <= _MOST_NEIGHBOURED:
        top1 = float(neighbours_are_right(_filled(values, finite), labels)[finite].sum())
        top1 /= len(labels)
        reference_top1 = float(neighbours_are_right(reference, labels).mean())
    if output.is_of_labels and finite.all():
        precision = _average_precision(values, _decisions(reference, output))
    cosine = _cosine(flat, expected, scale, rms) if finite.all() else 0.0
    return Metrics(top1, reference_top1, agreement, cosine, worst, rms, precision)


def spread(values: Floats) -> float:
    """Returns the root mean square of values `[N, ...]` about their mean over images; if the images
    do not differ, that of the values themselves, or 1 if all are 0.
    """
    about_mean = float(np.sqrt((image_centred(values) ** 2).mean()))
    return about_mean or float(np.sqrt((values.astype(np.float64) ** 2).mean())) or 1.0


def image_centred(values: Floats) -> NDArray[np.float64]:
    """Returns values minus their mean over the images: what distinguishes the images.

    With random weights most of a logit vector is the same for every image, and a plain cosine says
    nothing. A single image cannot be centred and is returned unchanged.
    """
    wide = values.astype(np.float64)
    return wide - wide.mean(axis=0, keepdims=True) if len(wide) > 1 else wide


def neighbours_are_right(
    values: Floats, labels: NDArray[np.int64], neighbours: int = _NEIGHBOURS
) -> NDArray[np.bool_]:
    """Returns, for each embedding `[N, d]`, true if most of its nearest neighbours vote for its
    class.
    """
    similar = _similarities(values)
    count = min(neighbours, len(values) - 1)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    right = []
    for own, others in zip(labels, labels[nearest], strict=True):
        classes, first, votes = np.unique(others, return_index=True, return_counts=True)
        # Among classes with equally many votes the one with the nearest neighbour wins.
        best = max(range(len(classes)), key=lambda i: (votes[i], -first[i]))
        right.append(classes[best] == own)
    return np.array(right, np.bool_)


def _filled(values: Floats, finite: NDArray[np.bool_]) -> Floats:
    mask = finite.reshape(-1, *[1] * (values.ndim - 1))
    filled: Floats = np.where(mask, np.nan_to_num(values), 0).astype(np.float32)
    return filled


def _decisions(values: Floats, output: OutputSpec) -> NDArray[Any]:
    decide = KINDS[output.kind].decide
    assert decide is not None
    return decide(values)


def _agreement(
    values: Floats, reference: Floats, output: OutputSpec, finite: NDArray[np.bool_]
) -> float | None:
    """Returns the share of decisions that equal the reference's; None if there are none."""
    if KINDS[output.kind].decide is None:
        return None
    if output.kind == EMBEDDING and not 2 < len(values) <= _MOST_NEIGHBOURED:
        return None
    expected = _decisions(reference, output)
    same = _decisions(_filled(values, finite), output) == expected
    if not same.size:
        return None
    return float(same.reshape(len(values), -1)[finite].sum() / same.size)


def _similarities(values: Floats) -> NDArray[np.float64]:
    """Returns cosine similarities `[N, N]` of embeddings; that of each to itself is set to -2."""
    wide = values.reshape(len(values), -1).astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), _TINY)
    similar: NDArray[np.float64] = unit @ unit.T
    np.fill_diagonal(similar, -2)
    return similar


def _average_precision(values: Floats, relevant: NDArray[np.bool_]) -> float | None:
    """Returns the mean over labels of the average precision with which `values` `[N, labels]` rank
    the images. `relevant` is the truth; None if no image has a label.
    """
    scores = []
    for column, truth in zip(values.T, relevant.T, strict=True):
        if truth.any():
            hits = truth[np.argsort(-column, kind="stable")]
            ranks = np.flatnonzero(hits) + 1
            scores.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
    return float(np.mean(scores)) if scores else None


def _cosine(values: Floats, reference: Floats, scale: float, rms: float) -> float:
    """Returns the mean cosine of image-centred values. If the images hardly differ, returns the
    cosine that an error of size `rms` would give among images that do.
    """
    a, b = image_centred(values), image_centred(reference)
    if float(np.sqrt((b**2).mean())) < _HARDLY_DIFFERS * scale:
        return max(1 - rms**2 / 2, -1.0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, _TINY)).mean())


def worst_violation(
    metrics: Mapping[str, Metrics], tolerances: Mapping[str, float]
) -> tuple[str, float, float] | None:
    """Returns name, error and tolerance of the output that is furthest over its tolerance; None if
    all are within theirs.
    """
    over = [
        (metrics[name].rms_error / tolerance, name)
        for name, tolerance in tolerances.items()
        if not metrics[name].rms_error <= tolerance
    ]
    if not over:
        return None
    _, name = max(over)
    return name, metrics[name].rms_error, tolerances[name]
