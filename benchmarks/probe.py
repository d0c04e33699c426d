"""A linear probe: what the embeddings of a model without classes are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

_NEVER = -20.0
"""Logit of a class that no image of the probe's training has."""


@dataclass(frozen=True)
class Probe:
    """Logits of embeddings.

    Attributes:
        weight: float32 `[channels, classes]`.
        bias: float32 `[classes]`.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return embeddings @ self.weight + self.bias


def fit_probe(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> Probe:
    """Fits a logistic regression to `embeddings` `[images, channels]`, each channel normalised."""
    centre, scale = embeddings.mean(axis=0), embeddings.std(axis=0)
    fitted = LogisticRegression(C=0.05, max_iter=3000).fit((embeddings - centre) / scale, labels)
    rows, offsets, known = fitted.coef_, fitted.intercept_, fitted.classes_
    if len(known) == 2:  # one row, of the second class against the first
        rows, offsets = np.concatenate([0 * rows, rows]), np.concatenate([0 * offsets, offsets])
    classes = int(labels.max()) + 1
    weight = np.zeros((embeddings.shape[1], classes), np.float32)
    bias = np.full(classes, _NEVER, np.float32)
    weight[:, known] = (rows / scale).T
    bias[known] = offsets - (rows / scale) @ centre
    return Probe(weight, bias)
