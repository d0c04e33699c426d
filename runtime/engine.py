"""The engine that an application embeds.

with Engine.load("build/vit_digits") as engine:
    scores = engine(frames)     # uint8 [N, height, width, channels] -> float32 [N, outputs]
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .backends import Session
from .bundle import Bundle
from .candidates import Candidate, list_candidates, open_session
from .device_cache import DeviceCache
from .errors import CLOSED, BackendError, EngineError, InputError, SelfCheckError
from .manifest import EngineSpec, Manifest
from .preprocess import Preprocess
from .selfcheck import require_golden

_log = logging.getLogger("vit_edge.runtime")


@dataclass(frozen=True)
class EngineInfo:
    """What runs, where, and why it was chosen."""

    precision: str
    backend: str
    version: str
    device: str
    why: str


def run_batches(
    session: Session, spec: EngineSpec, frames: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Runs any number of frames: cut to the profile's largest batch, the last cut padded to its
    smallest.
    """
    smallest, _, largest = spec.batch
    if smallest <= len(frames) <= largest:
        return session.run(frames)
    parts = []
    for start in range(0, len(frames), largest):
        part = frames[start : start + largest]
        missing = max(0, smallest - len(part))
        padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        parts.append(session.run(padded)[: len(part)])
    return np.concatenate(parts)


class Engine:
    """A ViT on this device's best backend. Thread-safe; a context manager; call `close` otherwise.

    Attributes:
        info: What runs and why.
        preprocess: Turns pictures into frames.
        labels: Names of the outputs, or None.
        output: "logits", or "features" of a model without a head.
    """

    info: EngineInfo
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    output: str

    def __init__(self, session: Session, manifest: Manifest, info: EngineInfo) -> None:
        self._session: Session | None = session
        self._spec = manifest.spec
        self.info, self.preprocess, self.labels = info, manifest.preprocess, manifest.labels
        self.output = manifest.spec.output_name

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], precision: str | None = None, backend: str | None = None
    ) -> Engine:
        """Opens the best engine of the bundle at `path`, verified.

        The bundle's hashes are checked always, its golden samples at an engine's first load on this
        device.

        Args:
            path: A bundle that `vit-edge export` wrote.
            precision: Which precision; None is the fastest measured here, else the likeliest.
            backend: Which backend; None likewise.

        Raises:
            InputError: for an unknown precision or backend.
            BundleError: if the bundle is missing or altered.
            BackendError: if nothing in the bundle can run here.
            EngineError: if the backend refuses the engine that was asked for.
            SelfCheckError: if its answers are wrong here.
        """
        bundle = Bundle.open(path)
        cache = DeviceCache.of(bundle.digest)
        refused: list[str] = []
        for candidate, why in _rank(
            list_candidates(bundle.manifest, precision, backend), cache, refused
        ):
            try:
                return cls._open(candidate, bundle, cache, "; ".join([why, *refused]))
            except (BackendError, EngineError, SelfCheckError) as error:
                if precision is not None and backend is not None:
                    raise
                _log.warning("%s is not used: %s", candidate, error)
                refused.append(f"{candidate} was not used: {error}")
        raise BackendError(f"nothing in {bundle.path} can run here: {'; '.join(refused)}")

    @classmethod
    def _open(cls, candidate: Candidate, bundle: Bundle, cache: DeviceCache, why: str) -> Engine:
        session, manifest = open_session(candidate, bundle, cache), bundle.manifest
        backend, key = candidate.backend, candidate.key()
        info = EngineInfo(
            candidate.precision, backend.name, backend.version(), backend.device(), why
        )
        engine = cls(session, manifest, info)
        if not cache.is_checked(key):
            graph = manifest.precisions[candidate.precision].graphs[backend.graph]
            try:
                metrics = require_golden(engine, bundle.golden(), graph, str(candidate))
            except BaseException:
                engine.close()
                raise
            cache.mark_checked(key, metrics.rms_error)
        return engine

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores frames: uint8 `[N, height, width, channels]` with any N > 0 -> float32 `[N,
        outputs]`.

        Raises:
            InputError: if `frames` has another shape or dtype.
            EngineError: if the engine is closed or fails.
        """
        session = self._session
        if session is None:
            raise EngineError(CLOSED)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
            raise InputError(
                f"frames are {kind}, not a uint8 array: pass pixels as they come, 0 to 255"
            )
        if frames.ndim != 4 or frames.shape[1:] != self._spec.image_shape or not len(frames):
            wanted = ", ".join(map(str, self._spec.image_shape))
            raise InputError(
                f"frames have shape {list(frames.shape)}, not [N, {wanted}] with N > 0"
            )
        return run_batches(session, self._spec, np.ascontiguousarray(frames))

    def close(self) -> None:
        """Frees the engine. Closing twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _rank(
    candidates: list[Candidate], cache: DeviceCache, refused: list[str]
) -> list[tuple[Candidate, str]]:
    """Those that can run here, with the reason for their place: measured ones first, the fastest of
    them first.
    """
    runnable = []
    for candidate in candidates:
        problem = candidate.backend.run_problem()
        if problem:
            refused.append(f"{candidate} cannot run: {problem}")
        else:
            runnable.append(candidate)
    latencies = {c: cache.latency(c.key()) for c in runnable}
    measured = sorted((c for c in runnable if latencies[c]), key=lambda c: latencies[c] or 0)
    others = [c for c in runnable if not latencies[c]]
    # A backend of a faster kind that nobody has measured yet goes before the measured ones.
    known = {c.backend for c in measured}
    kinds = [c.backend for c in runnable]
    ahead = [
        c
        for c in others
        if measured
        and c.backend not in known
        and kinds.index(c.backend) < kinds.index(measured[0].backend)
    ]
    ranked = [*ahead, *measured, *(c for c in others if c not in ahead)]
    return [(c, _reason(latencies[c])) for c in ranked]


def _reason(latency: float | None) -> str:
    if latency is None:
        return (
            "first choice for its kind of device; not measured here yet, `vit-edge compare` does it"
        )
    return f"fastest measured here at batch 1 ({latency:.3g} ms)"
