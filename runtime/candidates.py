"""What of a bundle could run on this device, and how it is opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import NamedTuple

from .backends import BACKENDS, Backend, BuildOptions, Built, Session, find_backend
from .backends.base import NO_EXTERNAL_DATA, ExternalData
from .bundle import Bundle
from .device_cache import DeviceCache, timing_caches
from .errors import BackendError, InputError
from .manifest import Graph, Manifest
from .prebuilt import find_prebuilt, passed_over

_log = logging.getLogger("vit_edge.runtime")

UNMEASURED_ORDER = {"gpu": ("fp16", "bf16", "int8", "fp8", "fp32"), "cpu": ("int8", "bf16", "fp32")}
"""Which precision comes first where nothing was measured: INT8 is slower than FP16 on several GPUs.
"""


@dataclass(frozen=True)
class Candidate:
    """A precision on a backend."""

    precision: str
    backend: Backend

    def key(self) -> str:
        """All that an engine, its check and its latency depend on, beside the bundle."""
        return (
            f"{self.precision}|{self.backend.name}|{self.backend.version()}|{self.backend.device()}"
        )

    def __str__(self) -> str:
        return f"{self.precision} on {self.backend.name}"


def list_candidates(
    manifest: Manifest, precision: str | None, backend: str | None
) -> list[Candidate]:
    """What the bundle has for these wishes, whether or not it can run here, best unmeasured choice
    first.

    Raises:
        InputError: if the bundle has no such precision, or there is no such backend.
    """
    if precision is not None and precision not in manifest.precisions:
        raise InputError(
            f"the bundle has no precision {precision!r}: choose from "
            f"{', '.join(manifest.precisions)}"
        )
    backends = list(BACKENDS.values()) if backend is None else [find_backend(backend)]
    precisions = list(manifest.precisions) if precision is None else [precision]
    candidates = []
    for known in backends:
        order = UNMEASURED_ORDER.get(known.graph, ())
        for name in sorted(precisions, key=lambda p: order.index(p) if p in order else len(order)):
            if known.graph in manifest.precisions[name].graphs and name not in known.lacks:
                candidates.append(Candidate(name, known))
    return candidates


class Blob(NamedTuple):
    """Verified bytes to open: an ONNX graph, with its weights where they lie beside it, or an
    engine.
    """

    data: bytes
    external: ExternalData = NO_EXTERNAL_DATA

    @property
    def size(self) -> int:
        return len(self.data) + sum(len(content) for content in self.external.values())


def load_blob(candidate: Candidate, bundle: Bundle, cache: DeviceCache) -> Blob | None:
    """The ONNX graph, a prebuilt engine or one that was built here; None if there is none."""
    entry, backend = bundle.manifest.precisions[candidate.precision], candidate.backend
    if not backend.needs_engine:
        return load_graph(entry.graphs[backend.graph], bundle)
    prebuilt = find_prebuilt(bundle.manifest, candidate.precision, backend)
    if prebuilt is not None:
        return Blob(bundle.read(prebuilt.file))
    built = cache.engine(candidate.key())
    return None if built is None else Blob(built)


def has_engine(candidate: Candidate, bundle: Bundle, cache: DeviceCache) -> bool:
    """Whether there is something to open without building it."""
    backend = candidate.backend
    if not backend.needs_engine:
        return True
    if find_prebuilt(bundle.manifest, candidate.precision, backend) is not None:
        return True
    return cache.engine(candidate.key()) is not None


def load_graph(graph: Graph, bundle: Bundle) -> Blob:
    """An ONNX graph of the bundle, with its weights where they lie beside it."""
    return Blob(*bundle.read_graph(graph))


def build_engine(
    candidate: Candidate, bundle: Bundle, cache: DeviceCache, options: BuildOptions
) -> Built:
    """Builds an engine for this device from the bundle's ONNX and keeps it in the device's cache.

    Raises:
        BackendError: if this machine cannot build it.
        EngineError: if the library refuses the graph.
    """
    problem = candidate.backend.build_problem()
    if problem:
        raise BackendError(f"cannot build {candidate} here: {problem}")
    graph = bundle.manifest.precisions[candidate.precision].graphs[candidate.backend.graph]
    onnx = load_graph(graph, bundle)
    build_options = replace(
        options,
        external=onnx.external,
        timing_caches=timing_caches(),
        what=f"{candidate.precision} of {bundle.manifest.name}",
    )
    built = candidate.backend.compile(onnx.data, bundle.manifest.spec, build_options)
    if candidate.backend.needs_engine:
        cache.store_engine(candidate.key(), built.engine)
        if built.listing:
            cache.store_listing(candidate.key(), built)
    return built


def why_built(candidate: Candidate, bundle: Bundle) -> list[str]:
    """Why none of the bundle's own engines is used; empty if one is or there is none."""
    return passed_over(bundle.manifest, candidate.precision, candidate.backend)


def load_or_build(candidate: Candidate, bundle: Bundle, cache: DeviceCache) -> Blob:
    """What to open; an engine is built first where there is none."""
    blob = load_blob(candidate, bundle, cache)
    if blob is None:
        _log.warning(
            "no engine for %s on this device yet: building one (`vit-edge build` does it ahead)%s",
            candidate,
            "".join(f"; {why}" for why in why_built(candidate, bundle)),
        )
        blob = Blob(build_engine(candidate, bundle, cache, BuildOptions()).engine)
    return blob


def open_blob(candidate: Candidate, blob: Blob, bundle: Bundle, cache: DeviceCache) -> Session:
    """Opens what `load_or_build` gave."""
    scratch = cache.scratch(candidate.key())
    return candidate.backend.open(blob.data, bundle.manifest.spec, blob.external, scratch)


def open_session(candidate: Candidate, bundle: Bundle, cache: DeviceCache) -> Session:
    """Opens a candidate, building its engine first where there is none."""
    return open_blob(candidate, load_or_build(candidate, bundle, cache), bundle, cache)
