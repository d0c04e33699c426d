"""Finds the precisions that are not faster than a higher one on the same backend, and says why.

Profiles are taken after all latencies, in sessions of their own, and of these engines alone: they
cost time, and their counters slow a call down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...deployment import Blob, Candidate, Deployment
from ...errors import BackendError, BundleError, EngineError
from ...manifest import EngineSpec
from ...schema import printable
from ...selection import LEVEL
from ..check import OK
from ..compare.comparison import ratio
from ..compare.contest import Measured
from ..display import say
from ..measure.statistics import Estimate
from .cause import largest_cause
from .work import EngineCall, NotFaster, width, with_kernels


def explain_slow(
    deployment: Deployment, measured: Sequence[Measured], seconds: float
) -> tuple[NotFaster, ...]:
    """Explains each precision that is not faster than the fastest of the higher ones, at the
    smallest batch size that was measured. `seconds` is how long an engine is profiled.
    """
    works: dict[Candidate, EngineCall] = {}

    def work(m: Measured) -> EngineCall:
        if m.candidate not in works:
            works[m.candidate] = _profile(deployment, m, seconds)
        return works[m.candidate]

    explained = []
    for slow, higher, speedup in slow_pairs(measured):
        pair = work(slow), work(higher)
        explained.append(NotFaster(*pair, slow.batch or 0, speedup, largest_cause(*pair)))
    return tuple(explained)


def slow_pairs(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured, Estimate]]:
    """Yields each engine that is not faster, beyond noise, than the fastest one of the same backend
    whose precision has more bits; that one; and how many times as fast it is.
    """
    right = [m for m in measured if m.series is not None and m.row.status == OK]
    smallest = min((m.batch or 0 for m in right), default=0)
    right = [m for m in right if m.batch == smallest]
    for m in right:
        backend, bits = m.candidate.backend, width(m.candidate.precision)
        higher = [
            other
            for other in right
            if other.candidate.backend == backend and width(other.candidate.precision) > bits
        ]
        if higher:
            fastest = min(higher, key=_median)
            speedup = ratio(fastest, m)
            if speedup.low <= LEVEL:
                yield m, fastest, speedup


def _median(m: Measured) -> float:
    assert m.series is not None
    return float(np.median(m.series.calls))


def _profile(deployment: Deployment, m: Measured, seconds: float) -> EngineCall:
    candidate, graph = m.candidate, deployment.graph(m.candidate)
    entry = deployment.bundle.manifest.precisions[candidate.precision]
    work = EngineCall(
        precision=candidate.precision,
        backend=candidate.backend.name,
        p50_ms=_median(m),
        quantised=graph.quantised.get("all"),
        fallback=entry.raised,
    )
    say(f"profiling {candidate} ...")
    try:
        profiler = _PROFILERS.get(candidate.backend.name, _no_profiler)
        return profiler(deployment, candidate, work, m.batch or 1, seconds)
    except (BackendError, EngineError, BundleError, MemoryError) as error:
        return replace(work, problem=printable(str(error) or "out of memory"))


def _no_profiler(
    deployment: Deployment, candidate: Candidate, work: EngineCall, batch: int, seconds: float
) -> EngineCall:
    return replace(work, problem=f"{candidate.backend.name} has no profiler that tells kinds apart")


def _openvino(
    deployment: Deployment, candidate: Candidate, work: EngineCall, batch: int, seconds: float
) -> EngineCall:
    from ...backends.openvino import OpenVino
    from . import openvino

    assert isinstance(candidate.tuned_backend, OpenVino)
    spec = deployment.bundle.manifest.spec
    blob = _graph(deployment, candidate)
    kernels = openvino.profile(candidate.tuned_backend, blob, spec, candidate.threads, seconds)
    return with_kernels(work, _at(openvino.SOURCE, spec, batch), kernels)


def _onnxruntime(
    deployment: Deployment, candidate: Candidate, work: EngineCall, batch: int, seconds: float
) -> EngineCall:
    from ...backends.onnxruntime import OnnxRuntime
    from . import onnxruntime

    backend = candidate.tuned_backend
    assert isinstance(backend, OnnxRuntime)
    spec = deployment.bundle.manifest.spec
    blob = _graph(deployment, candidate)
    kernels = onnxruntime.profile(backend, blob, spec, candidate.threads, seconds)
    return with_kernels(work, _at(onnxruntime.SOURCE, spec, batch), kernels)


def _at(source: str, spec: EngineSpec, batch: int) -> str:
    """Names the batch size of a profile, the least that the graph takes, where it is another."""
    return source if spec.batch[0] == batch else f"{source}, at batch {spec.batch[0]}"


def _graph(deployment: Deployment, candidate: Candidate) -> Blob:
    blob = deployment.load(candidate)
    assert blob is not None  # the graph itself is what runs
    return blob


def _tensorrt(
    deployment: Deployment, candidate: Candidate, work: EngineCall, batch: int, seconds: float
) -> EngineCall:
    from . import tensorrt

    plan = tensorrt.find_plan(deployment, candidate)
    if plan is None:
        return replace(work, problem="its builder listed nothing")
    return tensorrt.with_plan(work, plan, candidate.backend.device(), batch)


_PROFILERS: dict[str, Callable[[Deployment, Candidate, EngineCall, int, float], EngineCall]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt,
    "tensorrt-lean": _tensorrt,
}
"""By backend; each loads its library on first use."""
