"""Rows and whole comparisons as measurements would give them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vit_edge.runtime.tools.compare.comparison import (
    QUANTILES,
    ComparedRow,
    Comparison,
    Distribution,
    LayerSensitivity,
)
from vit_edge.runtime.tools.compare.recommend import recommend
from vit_edge.runtime.tools.measure.interference import Interference
from vit_edge.runtime.tools.measure.machine import Machine
from vit_edge.runtime.tools.measure.statistics import Estimate

QUIET = Interference(load_before=0.1, load_after=1.9, others=0.01, stolen=0.0, cores=2)
MACHINE = Machine(
    cpu="Cortex-A78AE (aarch64, 6 cores)", cores=(0, 1, 2, 3, 4, 5), cores_online=6,
    governor="schedutil", frequency="115 to 1510 MHz", cpu_limit=None, memory_free=4 << 30,
    system="Linux 5.15 aarch64", versions={"python": "3.10.12"}, thread_settings={},
)  # fmt: skip


def row(
    precision: str,
    ratio: float,
    error: float | None,
    noise: float = 0.005,
    backend: str = "onnxruntime",
    size: int = 1 << 20,
    **other: Any,
) -> ComparedRow:
    """A row whose latency is `ratio` times 10 ms, give or take `noise`, and as many times the
    fastest's.
    """
    p50 = 10 * ratio
    known = ComparedRow(
        precision=precision, backend=backend, status="ok", batch=1, scenario="SingleStream",
        p50_ms=p50, p90_ms=1.1 * p50, p99_ms=1.3 * p50, mean_ms=1.02 * p50, images_per_s=980 / p50,
        calls=300, p50_interval=(p50 * (1 - noise), p50 * (1 + noise)),
        p90_interval=(1.1 * p50 * (1 - noise), 1.1 * p50 * (1 + noise)),
        p99_interval=(1.1 * p50, 1.5 * p50), images_per_s_interval=(970 / p50, 990 / p50),
        top1=0.98, reference_top1=0.99, agreement=0.995, cosine=0.9999, bytes=size,
        speedup=Estimate(2 / ratio, 1.9 / ratio, 2.1 / ratio),
        to_fastest=Estimate(ratio, ratio - noise, ratio + noise),
        rms_error=error, cores=1.9, group=0,
    )  # fmt: skip
    return replace(known, **other)


def failed(precision: str, backend: str = "onnxruntime") -> ComparedRow:
    """A row of an engine that could not be opened."""
    return ComparedRow(precision, backend, "failed: the graph is refused")


def comparison(*rows: ComparedRow, **other: Any) -> Comparison:
    """A whole comparison of these rows."""
    distributions = tuple(
        Distribution(
            r.precision, r.backend, r.batch,
            tuple(r.p50_ms * float(q) for q in np.interp(QUANTILES, (0, 50, 100), (0.9, 1, 1.4))),
            (r.p50_ms,) * 12,
        )
        for r in rows
        if r.batch is not None and r.p50_ms is not None
    )  # fmt: skip
    known = Comparison(
        version=1, name="vit_small", bundle="0123456789abcdef" * 4,
        made="2026-01-02T03:04:05+00:00", rows=rows,
        not_run={"tensorrt": "tensorrt is not installed"}, recommendation=recommend(rows),
        notes=(), distributions=distributions, sensitivities={}, machine=MACHINE,
        interference=QUIET, seconds=3.0,
    )  # fmt: skip
    return replace(known, **other)


UNITS = tuple(
    LayerSensitivity(f"blocks.{block}.{part}", 1e-3 * (1 + block) * (1 + i), 1e-6, 1000.0)
    for block in range(12)
    for i, part in enumerate(("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
)
