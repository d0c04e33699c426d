"""Measures of an engine: how far its outputs are from the reference, and how long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-30


@dataclass(frozen=True)
class Metrics:
    """See `runtime.manifest.Accuracy` for the definitions; rates are between 0 and 1."""

    top1: float | None
    reference_top1: float | None
    agreement: float
    cosine: float
    logit_error: float
    rms_error: float


def compare_logits(
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    population: NDArray[np.float32] | None = None,
) -> Metrics:
    """Compares logits `[N, classes]` with the reference's; labels int64 `[N]` or None.

    `population` is the larger set of reference logits that these few are of: `rms_error` is
    relative to its spread, because a few images may all be of one class and hardly differ.

    Logits that are not finite agree with nothing: their cosine is 0 and their errors are infinite.
    """
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    predicted = np.where(finite, np.where(finite[:, None], logits, 0).argmax(axis=1), -1)
    expected = reference.argmax(axis=1)
    error = np.where(finite[:, None], logits.astype(np.float64) - reference, np.inf)
    spread = float(reference.max() - reference.min())
    centred = image_centred(reference if population is None else population)
    return Metrics(
        top1=None if labels is None else float((predicted == labels).mean()),
        reference_top1=None if labels is None else float((expected == labels).mean()),
        agreement=float((predicted == expected).mean()),
        cosine=_mean_cosine(logits, reference) if finite.all() else 0.0,
        logit_error=float(np.abs(error).max() / max(spread, _TINY)),
        rms_error=float(np.sqrt((error**2).mean()) / max(np.sqrt((centred**2).mean()), _TINY)),
    )


def image_centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits less their mean over the images: what tells the images apart.

    With random weights most of a logit vector is the same for every image, and a plain cosine says
    nothing. A single image cannot be centred and is returned as it is.
    """
    wide = logits.astype(np.float64)
    return wide - wide.mean(axis=0, keepdims=True) if len(wide) > 1 else wide


def divergence(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of the probabilities from the reference's, in nats; infinite
    for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    expected, got = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(expected) * (expected - got)).sum(axis=1).mean())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def _mean_cosine(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    a, b = image_centred(logits), image_centred(reference)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, _TINY)).mean())


SETTLE_SECONDS = 0.06
"""Time after a start or a change of engine in which calls do not count."""


@dataclass(frozen=True)
class TimingBudget:
    """Duration of a measurement: at least `runs` calls and `seconds`, at most `most_runs` calls."""

    runs: int
    seconds: float
    most_runs: int = 2000


THOROUGH = TimingBudget(runs=20, seconds=1.0)
QUICK = TimingBudget(runs=5, seconds=0.3)
"""Enough to tell which of several engines is the fastest by far, at an application's first start.
"""


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds over `runs` calls."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


def settle(call: Callable[[], object], seconds: float = SETTLE_SECONDS) -> None:
    """Calls for so long, once at least."""
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < seconds:
        call()


def measure_latency(call: Callable[[], object], effort: TimingBudget = THOROUGH) -> Latency:
    """Times `call`, after it has settled."""
    settle(call)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < effort.most_runs and (
        len(times) < effort.runs or time.perf_counter() - start < effort.seconds
    ):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return Latency(len(times), float(p50), float(p90), float(p99))
