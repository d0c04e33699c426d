"""Judges where merging pays: its own kernels may cost more than fewer tokens save."""

from __future__ import annotations

from dataclasses import dataclass

from vit_edge.export.assemble import EngineResult
from vit_edge.export.measure import LatencyHere
from vit_edge.runtime.tools.plan.devices import PORTABLE, devices_for
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan
from vit_edge.runtime.tools.plan.estimate import estimate
from vit_edge.runtime.tools.plan.layers import kernels


@dataclass(frozen=True)
class Verdict:
    """Outcome for one engine.

    Attributes:
        pays: True if it is estimated to be faster on a device of its target, or nothing is known.
        words: The reason, with kernels and times.
    """

    pays: bool
    words: str


@dataclass(frozen=True)
class _Pair:
    """Estimated microseconds of a call without merging and with it, and the kernels of each."""

    device: str
    batch: int
    times: tuple[float, float]
    kernels: tuple[int, int]

    @property
    def gain(self) -> float:
        return self.times[0] / self.times[1]


def judge_engine(name: str, base: str, merged: EngineResult, plain: EngineResult) -> Verdict:
    """Compares the plans of two engines for one target.

    Args:
        name: The merged precision.
        base: The one that merges nothing.
        merged: Its engine.
        plain: The base's.
    """
    pairs = _compare(merged.plan, plain.plan, merged.compute_capabilities)
    what = f"{name} for {merged.target}"
    if not pairs:
        return Verdict(True, f"{what}: no estimate tells if merging pays there; measure it")
    best = max(pairs, key=lambda pair: pair.gain)
    figures = (
        f"{best.times[1]:.0f} us in {best.kernels[1]} kernels, {base} {best.times[0]:.0f} us in "
        f"{best.kernels[0]} (estimated, {best.device}, batch {best.batch})"
    )
    if best.gain <= 1:
        return Verdict(
            False,
            f"no engine of {what}: its own kernels cost more than fewer tokens save, at best "
            f"{figures}",
        )
    shares = []
    for batch in sorted({pair.batch for pair in pairs}):
        here = [pair for pair in pairs if pair.batch == batch]
        faster = sum(pair.gain > 1 for pair in here)
        shares.append(f"{faster} of {len(here)} GPUs at batch {batch}")
    return Verdict(True, f"{what}: cheaper on {', '.join(shares)}; at best {figures}")


def judge_latency(name: str, base: str, merged: LatencyHere, plain: LatencyHere) -> str:
    """Says how long a single image takes on this machine with merging and without."""
    pays = merged.p50_ms < plain.p50_ms
    return (
        f"{name} takes {merged.p50_ms:.3g} ms for one image here, {base} {plain.p50_ms:.3g}"
        f"{'' if pays else ': merging does not pay on this CPU'}"
    )


def _compare(
    merged: EnginePlan | None, plain: EnginePlan | None, capabilities: tuple[str, ...]
) -> list[_Pair]:
    """Both estimates for each device and batch size that has them."""
    if merged is None or plain is None:
        return []
    pairs, others = [], {at.batch: at.layers for at in plain.batches}
    for at in merged.batches:
        layers = others.get(at.batch)
        if layers is None:
            continue
        counts = tuple(sum(1 for _ in kernels(one)) for one in (layers, at.layers))
        for device in devices_for(capabilities or PORTABLE):
            one, other = (estimate(some, at.batch, device) for some in (layers, at.layers))
            if one is not None and other is not None:
                times = (1000 * one.milliseconds, 1000 * other.milliseconds)
                pairs.append(_Pair(device.name, at.batch, times, (counts[0], counts[1])))
    return pairs
