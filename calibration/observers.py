"""Observers, which find the clipping range of a symmetric INT8 quantiser from activations, and the
calibration table of such ranges, with the model and data that they belong to.

The memory of observers is bounded whatever the number of images, and their results do not depend on
batch size or order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.schema import SchemaError, decode, encode


@dataclass(frozen=True)
class Origin:
    """Identity of a model by SHA-256: of its weights, and of the preprocessing of its images."""

    weights: str
    preprocess: str


@dataclass(frozen=True)
class Provenance:
    """Model and data that a table belongs to.

    Attributes:
        origin: The model.
        graph: SHA-256 of the optimised fp32 graph that was observed.
        data: SHA-256 of the images; `data_source` names them in words, `images` is their number.
        method: The calibration method.
    """

    origin: Origin
    graph: str
    data: str
    data_source: str
    images: int
    method: str

    def differences(self, other: Provenance) -> tuple[str, ...]:
        """Lists all that differs from `other`, in words with both values."""
        pairs = {
            "weights": (self.origin.weights, other.origin.weights),
            "preprocessing": (self.origin.preprocess, other.origin.preprocess),
            "images": (self.data, other.data),
            "method": (self.method, other.method),
            "graph": (self.graph, other.graph),
        }
        return tuple(
            f"{name} {table[:12]}, here {here[:12]}"
            for name, (table, here) in pairs.items()
            if table != here
        )


@dataclass(frozen=True)
class CalibrationTable:
    """Activation ranges by the name of the tensor in the optimised fp32 graph.

    Attributes:
        provenance: Model and data that they were observed on.
        amax: The largest magnitude that an INT8 quantiser of this tensor represents; for inputs of
            Linears.
        peak: The largest magnitude seen; for every floating-point activation.
    """

    provenance: Provenance
    amax: dict[str, float]
    peak: dict[str, float]

    def to_json(self) -> str:
        return encode(self)

    def require(self, expected: Provenance) -> None:
        """Raises InputError, which names what differs, if the table belongs to something else."""
        differences = self.provenance.differences(expected)
        if differences:
            raise InputError(
                f"the calibration table belongs to something else: it was made for "
                f"{'; '.join(differences)}. Calibrate again"
            )


def read_table(path: Path) -> CalibrationTable:
    """Reads a table. Raises InputError if it is not one."""
    try:
        return decode(CalibrationTable, json.loads(path.read_text()))
    except (OSError, ValueError, SchemaError) as error:
        raise InputError(f"{path} is not a calibration table: {error}") from None


INT8_MAX = 127
_BINS = 4096
_FIRST_LIMIT = 2.0**-6
_PERCENTILE = 99.99
_MSE_CANDIDATES = 96
_LEVELS = 128
_ENTROPY_CANDIDATES = 192
_LOST = 10.0
"""Penalty, in nats, for probability where the quantised distribution has none."""


class RangeObserver(Protocol):
    """Observes activations, then returns the largest magnitude for the quantiser to represent."""

    def update(self, values: NDArray[np.float32]) -> None: ...

    def amax(self) -> float: ...


class MinMax:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self._amax = 0.0

    def update(self, values: NDArray[np.float32]) -> None:
        self._amax = max(self._amax, _largest(np.abs(values)))

    def amax(self) -> float:
        return self._amax


def _largest(magnitudes: NDArray[np.float32]) -> float:
    return require_finite(float(magnitudes.max()))


def require_finite(largest: float) -> float:
    """Returns `largest`, the greatest magnitude of activations. Raises ValueError if it is not
    finite.
    """
    if not np.isfinite(largest):
        raise ValueError("activations are not finite: fp32 overflows on a calibration image")
    return largest


class Histogram:
    """Counts of magnitudes in equal bins over [0, limit).

    `limit` is a power of two that doubles, by merging neighbouring bins, when a larger value comes.
    So the counts are exactly those that the final limit would have given from the start.
    """

    def __init__(self) -> None:
        self.limit = _FIRST_LIMIT
        self.counts: NDArray[np.int64] = np.zeros(_BINS, dtype=np.int64)

    def update(self, values: NDArray[np.float32]) -> None:
        magnitudes = np.abs(values, dtype=np.float32).reshape(-1)
        largest = _largest(magnitudes)
        while largest >= self.limit:
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)]
            )
            self.limit *= 2
        magnitudes *= np.float32(_BINS / self.limit)  # a power of two: exact
        self.counts += np.bincount(magnitudes.astype(np.int32), minlength=_BINS)

    @property
    def width(self) -> float:
        return self.limit / _BINS


class Percentile(Histogram):
    """The magnitude below which 99.99 % of the activations lie."""

    def amax(self) -> float:
        share = np.cumsum(self.counts) / max(1, int(self.counts.sum()))
        return float((int(np.searchsorted(share, _PERCENTILE / 100)) + 1) * self.width)


class MSE(Histogram):
    """The range whose INT8 quantiser has the least mean squared error over the observed values,
    clipping included.
    """

    def amax(self) -> float:
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 1
        centres = (np.arange(used) + 0.5) * self.width
        counts = self.counts[:used].astype(np.float64)
        candidates = used * self.width * np.linspace(1 / _MSE_CANDIDATES, 1, _MSE_CANDIDATES)
        errors = [_quantisation_error(centres, counts, amax) for amax in candidates]
        return float(candidates[int(np.argmin(errors))])


def _quantisation_error(centres: NDArray[Any], counts: NDArray[np.float64], amax: float) -> float:
    scale = amax / INT8_MAX
    quantised = np.minimum(np.rint(centres / scale), INT8_MAX) * scale
    return float((counts * (centres - quantised) ** 2).sum())


class Entropy(Histogram):
    """The range whose INT8 quantiser loses the least information: the smallest Kullback-Leibler
    divergence of the quantised distribution from the clipped one.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """

    def amax(self) -> float:
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 1
        counts = self.counts[:used].astype(np.float64)
        sizes = np.unique(np.linspace(min(used, _LEVELS), used, _ENTROPY_CANDIDATES).astype(int))
        divergences = [_divergence(counts, int(size)) for size in sizes]
        return float(sizes[int(np.argmin(divergences))] * self.width)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    """Computes the divergence of the first `size` bins, quantised to 128 levels, from the same bins
    with the rest clipped into the last.
    """
    clipped = counts[:size].copy()
    clipped[-1] += counts[size:].sum()
    level = np.arange(size) * _LEVELS // size
    occupied = counts[:size] > 0
    bins = np.bincount(level, weights=occupied, minlength=_LEVELS)
    mean = np.bincount(level, weights=counts[:size], minlength=_LEVELS) / np.maximum(bins, 1)
    quantised = np.where(occupied, mean[level], 0)
    p, q = clipped / max(clipped.sum(), 1), quantised / max(quantised.sum(), 1)
    both = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q == 0)].sum())
    return float((p[both] * np.log(p[both] / q[both])).sum()) + lost * _LOST


METHODS: dict[str, type[MinMax] | type[Percentile] | type[Entropy] | type[MSE]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MSE,
}
SEARCH = "search"
"""Uses no observer: outliers are smoothed, and ranges searched by the error of the outputs on
samples (`export.quantise`).
"""
DEFAULT_METHOD = SEARCH


def require_method(method: str) -> None:
    """Raises InputError for an unknown method."""
    if method not in (SEARCH, *METHODS):
        known = ", ".join((SEARCH, *METHODS))
        raise InputError(f"unknown calibration method {method!r}: choose from {known}")
