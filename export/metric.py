"""The user's own measure of a model's outputs, beside those of their kinds."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError, first_line

from .python_file import load_function

Function = Callable[[Mapping[str, NDArray[np.float32]], NDArray[np.int64] | None], float]
"""Outputs `[N, *shape]` of all evaluation images by name, and labels int64 `[N]` or None, to a
number; higher is better."""

ALLOWED_SHARE = 0.01
"""Part of the reference's value by which a metric may fall where `--max-drop` does not say."""


@dataclass(frozen=True)
class Metric:
    """The measure, its name in words, and what identifies it in caches."""

    name: str
    key: str
    function: Function

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64] | None
    ) -> float:
        """Returns the measure of the outputs. Raises InputError if it fails, or is no number."""
        try:
            value = float(self.function(dict(outputs), labels))
        except InputError:
            raise
        except Exception as error:  # a user's code may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"the metric {self.name} failed: {reason}") from error
        if not math.isfinite(value):
            raise InputError(f"the metric {self.name} is {value}: a finite number is wanted")
        return value


def load_metric(argument: str) -> Metric:
    """Loads `FILE.py:FUNCTION`.

    Raises:
        InputError: if there is no such file or function, or the file cannot be run.
    """
    file, _, name = argument.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise InputError(
            f"--metric {argument}: there is no file {file or argument}: give FILE.py:FUNCTION"
        )
    function = load_function(path, name)
    key = hashlib.sha256(path.read_bytes() + name.encode()).hexdigest()
    return Metric(argument, key, function)


def metric_of(function: Function) -> Metric:
    """The metric of a function in memory. No cache keeps its results: who knows what it reads?"""
    return Metric(getattr(function, "__name__", "metric"), uuid.uuid4().hex, function)


def allowed_drop(max_drop: float | None, reference: float) -> float:
    """Returns how much lower than the reference's a metric may be."""
    return ALLOWED_SHARE * abs(reference) if max_drop is None else max_drop
