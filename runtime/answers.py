"""Turns outputs into answers: the likeliest classes or labels, the similarity of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .outputs import EMBEDDING, LABEL_PROBABILITIES, LOGITS, MULTILABEL, PROBABILITIES, OutputSpec

DEFAULT_TOP = 5


@dataclass(frozen=True)
class Answer:
    """A class or label, with its probability.

    Attributes:
        label: Its name, or its index as text if the bundle has no names.
        index: Its position in the output.
        probability: 0 to 1. Over all classes they add up to 1; over labels, which do not exclude
            each other, they need not.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class TopK:
    """Finds the likeliest classes of one image, `engine.top(scores)`, or of each image of a batch,
    `engine.top.each(scores)`.

    Attributes:
        labels: Names of the classes or labels, or None.
        output: The output with classes or labels, or else the first.
    """

    labels: tuple[str, ...] | None
    output: OutputSpec

    def __call__(
        self, scores: ArrayLike | Mapping[str, ArrayLike], k: int = DEFAULT_TOP
    ) -> tuple[Answer, ...]:
        """Returns the `k` likeliest classes of one image, or all if there are fewer; the likeliest
        first, among equals the one with the lower index.

        Args:
            scores: Scores `[classes]` of one image; or all its outputs by name.
            k: Number of classes, at least 1.

        Raises:
            InputError: if the scores have another shape or are not finite, if `k` is below 1, or
                if the engine has no output of classes.
        """
        own = self._own(scores)
        if np.ndim(own) != 1:
            raise InputError(
                f"scores have shape {list(np.shape(own))}, not [classes]: pass those of one "
                "image, or a batch to `top.each`"
            )
        return self.each(np.asarray(own)[None], k)[0]

    def each(
        self, scores: ArrayLike | Mapping[str, ArrayLike], k: int = DEFAULT_TOP
    ) -> tuple[tuple[Answer, ...], ...]:
        """Returns the same for each image of a batch, scores `[N, classes]`. Raises likewise."""
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one class")
        own = self._own(scores)
        probabilities = self._probabilities(own)
        if probabilities.ndim != 2:
            raise InputError(f"scores have shape {list(probabilities.shape)}, not [N, classes]")
        if self.labels is not None and probabilities.shape[1] != len(self.labels):
            raise InputError(
                f"scores are of {probabilities.shape[1]} classes, the model has {len(self.labels)}"
            )
        best = np.argsort(-np.asarray(own), axis=1, kind="stable")[:, :k]
        return tuple(
            tuple(self._answer(int(index), float(row[index])) for index in indices)
            for row, indices in zip(probabilities, best, strict=True)
        )

    def _own(self, scores: ArrayLike | Mapping[str, ArrayLike]) -> Any:
        if not isinstance(scores, Mapping):
            return scores
        if self.output.name not in scores:
            raise InputError(f"the outputs are {', '.join(scores)}: none is {self.output.name}")
        return scores[self.output.name]

    def _probabilities(self, scores: Any) -> NDArray[np.float64]:
        kind = self.output.kind
        if kind == LOGITS:
            return softmax(scores)
        if kind == MULTILABEL:
            return sigmoid(scores)
        if kind in (PROBABILITIES, LABEL_PROBABILITIES):
            return _finite(scores, "scores")
        if kind == EMBEDDING:
            raise InputError(
                "the model puts out features, not classes: compare them with `cosine_similarity`"
            )
        raise InputError(f"the model puts out {self.output.name}, a {kind}: it has no classes")

    def _answer(self, index: int, probability: float) -> Answer:
        label = str(index) if self.labels is None else self.labels[index]
        return Answer(label, index, probability)


def sigmoid(scores: ArrayLike) -> NDArray[np.float64]:
    """Converts scores of labels `[..., labels]` to probabilities, in float64.

    Raises:
        InputError: if a score is not finite, or there are no scores.
    """
    logits = _finite(scores, "scores")
    small = np.exp(-np.abs(logits))
    probabilities: NDArray[np.float64] = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities


def softmax(scores: ArrayLike) -> NDArray[np.float64]:
    """Converts logits `[..., classes]` to probabilities, in float64.

    Raises:
        InputError: if a logit is not finite, or there are no logits.
    """
    logits = _finite(scores, "scores")
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def cosine_similarity(features: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Compares images by their features.

    Args:
        features: `[N, size]`.
        others: `[M, size]`, for example those of known images.

    Returns:
        `[N, M]`, from -1 to 1 (the same direction).

    Raises:
        InputError: if they do not fit each other, or as `unit_length` does.
    """
    left, right = unit_length(features), unit_length(others)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(
            f"features have shapes {list(left.shape)} and {list(right.shape)}, not [N, size] and "
            "[M, size]"
        )
    return np.clip(left @ right.T, -1, 1)


def unit_length(features: ArrayLike) -> NDArray[np.float64]:
    """Divides features `[..., size]` by their Euclidean norm.

    Raises:
        InputError: if a feature is not finite, or all of an image's are zero.
    """
    vectors = _finite(features, "features")
    # By the largest first: the square of a large float64 would overflow.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    if not largest.all():
        raise InputError("an image's features are all zero: they have no direction")
    scaled = vectors / largest
    unit: NDArray[np.float64] = scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)
    return unit


def _finite(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} are no numbers: pass what the engine returned") from None
    if not numbers.ndim or not numbers.size:
        raise InputError(f"{what} have shape {list(numbers.shape)}: there is none")
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{what} are not finite: the engine fails here, `vit-edge check` tells more"
        )
    return numbers
