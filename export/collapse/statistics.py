"""What the sums of a watched tensor say: how large its error is, and of what kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.onnx_file import to_bytes
from runtime.backends.onnxruntime import open_inference
from runtime.images import ImageSet

from .forced import Forced

Floats = NDArray[np.float64]

BATCH = 4
_TINY = 1e-30


@dataclass(frozen=True)
class Moments:
    """Sums over images and tokens, each float64 `[channels]`, of `count` values a channel.

    `expected` is what the fp32 piece makes of the lowering's own input (a branch, less the stream
    that it is added to), `error` what the lowering has less that.
    """

    count: int
    expected: Floats
    expected_squared: Floats
    error: Floats
    error_squared: Floats
    product: Floats
    stream_squared: Floats

    @property
    def finite(self) -> bool:
        return bool(np.isfinite([self.expected_squared, self.error_squared, self.product]).all())

    def signal(self, rounding: float) -> Floats:
        """Mean square of each channel, and of what the stream's own rounding may add.

        `rounding` is relative to the stream.
        """
        square: Floats = (self.expected_squared + rounding**2 * self.stream_squared) / self.count
        return square

    def relative_error(self, rounding: float) -> float:
        """RMS error relative to RMS signal."""
        signal = self.signal(rounding).sum()
        return float(np.sqrt(self.error_squared.sum() / self.count / max(signal, _TINY)))

    def channel_errors(self, rounding: float) -> Floats:
        """The same for each channel; quiet channels are measured against a part of the mean
        signal.
        """
        signal = self.signal(rounding)
        floor = QUIET * signal.mean()
        errors: Floats = np.sqrt(self.error_squared / self.count / np.maximum(signal + floor, _TINY))
        return errors

    def gain(self) -> float:
        """The factor between what should be and what is, as least squares see it."""
        return float(1 + self.product.sum() / max(self.expected_squared.sum(), _TINY))

    def channel_gains(self) -> Floats:
        """The same for each channel; that of quiet channels is drawn towards 1."""
        floor = QUIET * self.expected_squared.mean()
        gains: Floats = 1 + self.product / np.maximum(self.expected_squared + floor, _TINY)
        return gains

    def shift(self, rounding: float) -> float:
        """RMS over channels of the mean error, relative to RMS signal."""
        mean = ((self.error / self.count) ** 2).sum()
        return float(np.sqrt(mean / max(self.signal(rounding).sum(), _TINY)))


QUIET = 0.1
"""Part of the mean signal that counts as signal in every channel."""


@dataclass(frozen=True)
class Range:
    """How far a quantiser's input went, in steps of its grid, and the share that was clipped."""

    largest: float
    clipped: float


@dataclass(frozen=True)
class Observed:
    """What a pass over the images gave; `logits` float32 `[N, outputs]` are the lowering's."""

    logits: NDArray[np.float32]
    moments: dict[str, Moments]
    ranges: dict[str, Range]


def observe(forced: Forced, images: ImageSet) -> Observed:
    """Runs the joined graph over the images."""
    content = to_bytes(forced.model)
    session = open_inference(content.graph, content.external)
    del content
    name = forced.model.graph.inputs[0].name
    logits: list[NDArray[np.float32]] = []
    totals: list[Floats] = []
    ranges: list[Floats] = []
    for batch in images.batches(BATCH):
        first, *rest = session.run(None, {name: batch})
        logits.append(first)
        sums = [part.astype(np.float64) for part in rest[: len(forced.watches)]]
        totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
        ranges.append(np.array(rest[len(forced.watches) :], np.float64).reshape(-1, 2))
    watches = zip(forced.watches, totals, strict=True)
    return Observed(
        np.concatenate(logits),
        {w.name: Moments(len(images) * w.rows, *sums) for w, sums in watches},
        _summarise(forced.quantisers, ranges),
    )


def _summarise(names: Sequence[str], ranges: Sequence[Floats]) -> dict[str, Range]:
    each = np.stack(ranges)
    largest, clipped = each[:, :, 0].max(axis=0), each[:, :, 1].mean(axis=0)
    return {n: Range(float(a), float(b)) for n, a, b in zip(names, largest, clipped, strict=True)}
