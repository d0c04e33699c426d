"""Kernels of a TensorRT engine, by its builder's plan; their times are estimates, for a GPU that
the cost model knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...backends.base import Built
from ...backends.tensorrt import TensorRT
from ...deployment import Candidate, Deployment
from ...schema import printable
from ..plan import layers as kinds
from ..plan.devices import DEVICES, Device
from ..plan.engine_plan import EnginePlan, PlanAtBatch, decode_plan, plan_of
from ..plan.estimate import KernelTime, kernel_times
from ..plan.layers import EngineLayer, total
from ..plan.types import bits
from .kernels import CASTS, ELEMENTWISE, LAUNCHES, MOVES, OTHER, Kernel, product_kind, shares
from .work import EngineCall

_KINDS = {
    kinds.ATTENTION: ELEMENTWISE,
    kinds.ELEMENTWISE: ELEMENTWISE,
    kinds.COPY: MOVES,
    kinds.DEQUANTISE: CASTS,
}


def find_plan(deployment: Deployment, candidate: Candidate) -> EnginePlan | None:
    """The plan of the engine that runs here: the bundle's, or that of one built here; None where
    its builder listed nothing.

    Raises:
        BundleError, EngineError: if it is damaged, or not understood.
    """
    used, bundle = candidate.backend, deployment.bundle
    engine = deployment.prebuilt(candidate)
    if engine is not None:
        return decode_plan(bundle.read(engine.plan_file)) if engine.plan_file else None
    built = deployment.cache.listing(candidate.key)
    if built is None and isinstance(used, TensorRT):
        blob = deployment.load(candidate)
        if blob is not None:
            built = Built(b"", used.inspect(blob.data, bundle.manifest.spec))
    return None if built is None else plan_of(f"{used.name} {used.version()}", built)


def with_plan(work: EngineCall, plan: EnginePlan, gpu: str, batch: int) -> EngineCall:
    """The work of an engine with this plan.

    Args:
        work: What is known of it beside.
        plan: What its builder listed.
        gpu: The GPU's name.
        batch: Images of a call.
    """
    summary, device, at = plan.summary(), known_device(gpu), at_batch(plan, batch)
    layers = plan.layers if at is None else at.layers
    source = f"the plan of {plan.library}"
    kernels, bound = list[Kernel](), None
    if device is not None:
        kernels, moving = estimated_kernels(layers, device)
        if kernels:
            size = "" if at is None else f" at batch {at.batch}"
            source, bound = f"{source}, times estimated for {device.name}{size}", moving
    return replace(
        work,
        source=printable(source),
        shares=shares(kernels),
        whole_ms=sum(kernel.microseconds for kernel in kernels) / 1000,
        kernels=summary.kernels,
        kernels_per_block=summary.kernels_per_block,
        wider=summary.unmet,
        dequantised=summary.dequantised,
        bytes=total(layer.bytes for layer in layers),
        memory_bound=bound,
    )


def known_device(name: str) -> Device | None:
    """The device of the cost model that a GPU's name tells, as "NVIDIA L4 (8.9)"; None if it tells
    none of them. A Jetson's name does not.
    """
    matches = [d for d in DEVICES.values() if re.search(rf"\b{re.escape(d.name)}\b", name)]
    return max(matches, key=lambda device: len(device.name), default=None)


def at_batch(plan: EnginePlan, batch: int) -> PlanAtBatch | None:
    """The plan's layers at the known batch size that is nearest; None where none is known."""
    return min(plan.batches, key=lambda at: abs(at.batch - batch), default=None)


def estimated_kernels(layers: Sequence[EngineLayer], device: Device) -> tuple[list[Kernel], float]:
    """Kernels with the times that they are estimated to take on a device, launches among them, and
    the share of the time in those that the memory's bandwidth bounds; no kernels where the plan
    does not allow an estimate.
    """
    times = kernel_times(layers, device)
    if times is None:
        return [], 0.0
    kernels = [Kernel(t.layer.name, kind_of(t.layer), t.microseconds) for t in times]
    launches = Kernel(LAUNCHES, LAUNCHES, len(times) * device.launch)
    whole = sum(kernel.microseconds for kernel in (*kernels, launches))
    return [*kernels, launches], sum(map(_moving, times)) / whole


def _moving(time: KernelTime) -> float:
    return time.microseconds if time.is_moving else 0.0


def kind_of(layer: EngineLayer) -> str:
    """The kind of an engine's layer; a product without weights is attention's."""
    if layer.kind in _KINDS:
        return _KINDS[layer.kind]
    if not layer.multiplies:
        return OTHER
    if layer.operands is not None and layer.weight_bits is None:
        return ELEMENTWISE
    return product_kind(bits(layer.precision) or 32)
