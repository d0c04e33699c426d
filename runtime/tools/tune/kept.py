"""Variants that `vit-edge tune` tries on this device, and keeps of each candidate the fastest."""

from __future__ import annotations

from dataclasses import replace

from ...backends import Built, RunVariant
from ...deployment import Blob, Candidate, Deployment, Opened, key_start
from ...device_cache import Finding

Interval = tuple[float, float]
"""The ends of a confidence interval."""


def try_variant(
    deployment: Deployment, candidate: Candidate, engine: bytes | None = None
) -> Opened:
    """Opens a variant and runs all golden samples; nothing is remembered.

    Args:
        deployment: The bundle on this device.
        candidate: With the variant.
        engine: The engine that was built of it; None where the graph itself is what runs.

    Raises:
        BackendError, EngineError: if it cannot be opened or run.
    """
    blob = deployment.load(candidate) if engine is None else Blob(engine)
    assert blob is not None, "a variant of an engine brings its engine"
    spec = deployment.bundle.manifest.spec
    session = candidate.tuned_backend.open(blob.data, spec, blob.external, None, candidate.threads)
    return deployment.prove(candidate, session, blob.size, None)


def keep_variant(
    deployment: Deployment,
    opened: Opened,
    built: Built | None,
    single: tuple[float, Interval] | None,
) -> None:
    """Keeps a variant that was tried: its candidate runs in it from now on.

    Args:
        deployment: The bundle on this device.
        opened: What `try_variant` returned.
        built: Its engine; None where the graph itself is what runs.
        single: How many times as fast as the default it runs one image, with the interval; None if
            that was not measured.
    """
    candidate = opened.candidate
    variant, default = candidate.variant, candidate.default
    assert variant is not None
    if built is not None:
        deployment.store(candidate, built)
    finding, known = Finding(rms_error=opened.rms_error), deployment.finding(default)
    if single is not None and known.latency_ms is not None:  # beside the others' latencies
        gain, (low, high) = single
        bounds = known.latency_interval_ms
        finding = replace(
            finding,
            latency_ms=known.latency_ms / gain,
            latency_interval_ms=bounds and (bounds[0] / high, bounds[1] / low),
        )
    deployment.cache.keep_variant(default.key, variant, finding)
    deployment.refresh()


def forget_variant(deployment: Deployment, candidate: Candidate) -> None:
    """Forgets the variant of a candidate, which runs in its default way from now on."""
    deployment.cache.forget_variant(candidate.default.key)
    deployment.refresh()


def forget_variants(deployment: Deployment, precision: str, backend: str) -> list[RunVariant]:
    """Forgets and returns all variants of a precision on a backend: those for other versions,
    devices and numbers of threads too.
    """
    start = key_start(precision, backend)
    kept = {k: v for k, v in deployment.variants.items() if k.startswith(start)}
    for key in kept:
        deployment.cache.forget_variant(key)
    deployment.refresh()
    return list(kept.values())
