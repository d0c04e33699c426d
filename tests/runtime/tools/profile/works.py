"""Works of calls, as profiles would give them."""

from __future__ import annotations

from typing import Any

from vit_edge.runtime.tools.measure.statistics import Estimate
from vit_edge.runtime.tools.profile.cause import largest_cause
from vit_edge.runtime.tools.profile.kernels import (
    CASTS,
    ELEMENTWISE,
    KINDS,
    LAUNCHES,
    MOVES,
    OTHER,
    PRODUCTS,
)
from vit_edge.runtime.tools.profile.work import EngineCall, NotFaster

SHORT = {
    **{f"p{bits}": kind for bits, kind in PRODUCTS.items()},
    "casts": CASTS, "elementwise": ELEMENTWISE, "moves": MOVES, "launches": LAUNCHES,
    "other": OTHER,
}  # fmt: skip
assert set(SHORT.values()) == set(KINDS)


def work(precision: str, backend: str = "onnxruntime", **other: Any) -> EngineCall:
    """A call that takes so many milliseconds for each kind, by its name in `SHORT`."""
    times = {SHORT[name]: other.pop(name) for name in list(other) if name in SHORT}
    whole = sum(times.values()) or 10.0
    shares = {kind: time / whole for kind, time in times.items()}
    known = {"shares": shares, "whole_ms": whole, "source": "a clock"} | other
    return EngineCall(precision, backend, whole, **known)


def not_faster(slow: EngineCall, higher: EngineCall, speedup: float = 1.0) -> NotFaster:
    estimate = Estimate(speedup, speedup - 0.02, speedup + 0.02)
    return NotFaster(slow, higher, 1, estimate, largest_cause(slow, higher))
