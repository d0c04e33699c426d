"""Variants that are worth measuring: settings of a backend that may be faster on some devices.

Only what leaves the precision's name true is here: fp32 is never computed in fewer bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backends import Built, RunVariant, Session
from ...backends.cpu import default_threads, is_limited
from ...deployment import Candidate, Deployment
from ...manifest import Fact

_KINDS_OF_CORES = tuple(Path(f"/sys/devices/{name}") for name in ("cpu_core", "cpu_atom"))
"""There where a processor has cores of two kinds. Source: Linux, perf events of hybrid CPUs."""
_ARITHMETIC: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("f16",), "bf16": ("bf16",)}
_AROUND_QUANTISED = ("f32", "bf16", "f16")


@dataclass(frozen=True)
class Proposal:
    """Variant to be measured.

    Attributes:
        build: Builds its engine; None where the graph itself is what runs.
        about: What is known of it before; "" for nothing.
    """

    variant: RunVariant
    build: Callable[[], Built] | None = None
    about: str = ""


FindForms = Callable[[Deployment, Candidate, int, int], Sequence[Proposal]]
"""Proposes engines of a candidate in other forms of its graph, those of the least estimated cost
first: at a batch size, so many at most. Raises BackendError or EngineError where it cannot.
"""


def propose_settings(
    candidate: Candidate, session: Session, batches: Sequence[int]
) -> list[Proposal]:
    """Lists the settings to try of a backend that runs the graph itself.

    Args:
        candidate: In its default variant.
        session: Its default session.
        batches: Batch sizes that matter.
    """
    propose = _BY_BACKEND.get(candidate.backend.name)
    variants = [] if propose is None else propose(candidate, session, batches)
    return [Proposal(RunVariant(name, settings)) for name, settings in variants]


def join(variants: Sequence[RunVariant]) -> RunVariant | None:
    """Returns the variant with the settings of all that do not contradict those before them; None
    if that is the first one alone.
    """
    joined: list[RunVariant] = []
    settings: dict[str, Fact] = {}
    for variant in variants:
        if not settings.keys() & variant.settings.keys():
            joined.append(variant)
            settings |= variant.settings
    if len(joined) < 2:
        return None
    return RunVariant(", ".join(variant.name for variant in joined), settings)


Settings = Iterator[tuple[str, dict[str, Fact]]]


def _openvino(candidate: Candidate, session: Session, batches: Sequence[int]) -> Settings:
    from ...backends.openvino import OpenVino
    from ...backends.openvino.session import OpenVinoSession
    from ...backends.openvino.settings import APART, CONVOLUTIONS, PRODUCTS, TOGETHER

    assert isinstance(session, OpenVinoSession)
    assert isinstance(candidate.backend, OpenVino)
    chosen = session.settings
    if chosen.linears == PRODUCTS:
        yield "Linears as convolutions", {"linears": CONVOLUTIONS}
    elif chosen.linears == CONVOLUTIONS:
        yield "Linears as products", {"linears": PRODUCTS}
    if max(batches) > 1 and chosen.batches == TOGETHER:
        yield "each image apart", {"batches": APART}
    elif max(batches) > 1 and chosen.batches == APART:
        yield "images together", {"batches": TOGETHER}
    default = "bf16" if candidate.backend.has_type("bf16") else "f32"
    for arithmetic in _ARITHMETIC.get(candidate.precision, _AROUND_QUANTISED):
        if candidate.precision not in _ARITHMETIC and arithmetic == default:
            continue
        if candidate.backend.has_type(arithmetic):
            yield f"{arithmetic} arithmetic", {"arithmetic": arithmetic}
    yield from _fewer_threads(candidate, session)
    if not is_limited() and default_threads() < len(os.sched_getaffinity(0)):
        yield "hyper-threading on", {"hyper_threading": "on"}
    if all(path.exists() for path in _KINDS_OF_CORES):
        for cores in ("performance", "any"):
            yield f"{cores} cores", {"cores": cores}


def _onnxruntime(candidate: Candidate, session: Session, batches: Sequence[int]) -> Settings:
    yield "memory not laid out ahead", {"memory_pattern": False}
    yield "extended optimisation", {"optimisation": "extended"}
    if (session.threads or 1) > 1:
        yield "no spinning", {"spinning": False}
        yield "smaller shares for threads", {"block_base": 4}
    yield from _fewer_threads(candidate, session)


def _fewer_threads(candidate: Candidate, session: Session) -> Settings:
    """Threads wait for each other in every layer: fewer may be faster, where the user asked for no
    number. More than suit the machine are never tried.
    """
    count = session.threads
    if candidate.threads is not None or count is None:
        return
    for threads in sorted({1, count // 2} - {0, count}):
        yield f"{threads} thread{'s' if threads > 1 else ''}", {"threads": threads}


_BY_BACKEND: dict[str, Callable[[Candidate, Session, Sequence[int]], Settings]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "onnxruntime-cuda": _onnxruntime,
}
