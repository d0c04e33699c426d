"""Faithfulness of quantised outputs, and comparison of two quantisers image by image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_edge.export.accuracy import paired_interval
from vit_edge.export.sensitivity import divergence
from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.outputs import LOGITS, OutputSpec, compare_output, spread
from vit_edge.runtime.tools.images import ImageSet

Values = NDArray[np.float32]
"""Of a model's one output, a row for each image."""
_BATCH = 50


@dataclass(frozen=True)
class Faithfulness:
    """Rates in per cent; `kl` is the mean KL(fp32 || quantised) in nats."""

    top1: float
    agreement: float
    kl: float
    cosine: float


@dataclass(frozen=True)
class Lead:
    """Points by which ours is ahead of a peer on the same images, with a 95 % interval."""

    points: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "ahead"
        return "behind" if self.high < 0 else "level"


def run(file: Path, images: ImageSet) -> Values:
    """Computes the output of an ONNX file in ONNX Runtime."""
    session = open_inference(file.read_bytes(), {})
    (name,) = (value.name for value in session.get_inputs())
    return np.concatenate([session.run(None, {name: b})[0] for b in images.batches(_BATCH)])


def run_once(file: Path, images: ImageSet) -> Values:
    """Runs a file whose name changes with its content once; its outputs are kept beside it."""
    cache = file.with_suffix(f".{images.origin[:12]}.npy")
    if not cache.exists():
        np.save(cache, run(file, images))
    values: Values = np.load(cache)
    return values


def relative_error(values: Values, reference: Values) -> float:
    """Computes the root mean square of the differences, relative to that of the reference."""
    return float(np.sqrt(np.square(values - reference).mean() / np.square(reference).mean()))


def faithfulness(logits: Values, reference: Values, labels: NDArray[np.int64]) -> Faithfulness:
    output = OutputSpec("logits", LOGITS, (logits.shape[1],))
    metrics = compare_output(logits, reference, output, labels, spread(reference))
    assert metrics.top1 is not None
    kl = divergence(logits, reference)
    return Faithfulness(100 * metrics.top1, 100 * metrics.agreement, kl, metrics.cosine)


def lead(ours: Values, theirs: Values, classes: NDArray[np.int64]) -> Lead:
    """Computes the lead of our logits over theirs; `classes` are right (labels, or fp32's)."""
    we, they = ours.argmax(axis=1) == classes, theirs.argmax(axis=1) == classes
    won, lost = int((we & ~they).sum()), int((~we & they).sum())
    return Lead(100 * (won - lost) / len(classes), *paired_interval(won, lost, len(classes)))
