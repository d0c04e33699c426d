"""A bundle on this device: finds the engines that can run here, opens, checks and builds them.

Nothing else opens or builds a bundle's engines: selection, `check`, `compare`, `inspect` and
`build` use a `Deployment`, which keeps what it learns in the device's cache; `vit-edge tune` does
the same for variants.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from .backends import BACKENDS, Backend, BuildOptions, Built, RunVariant, Session, find_backend
from .backends.base import NO_EXTERNAL_DATA, ExternalData
from .bundle import Bundle
from .device_cache import DeviceCache, Finding, timing_caches, variant_key
from .errors import BackendError, EngineError, InputError, ResourceError, SelfCheckError
from .frames import run_frames
from .golden import SAMPLES_AT_LOAD, GoldenSamples, run_golden, tolerance_violation
from .manifest import EngineEntry, Graph
from .outputs import Metrics
from .schema import SchemaError

_log = logging.getLogger("vit_edge.runtime")

_OLDER_ORDER = {"gpu": ("fp16", "bf16", "int8", "fp8", "fp32"), "cpu": ("int8", "bf16", "fp32")}
"""Order of precisions where nothing was measured, for older bundles, whose graphs have no rank."""


@dataclass(frozen=True)
class Candidate:
    """A precision on a backend.

    Attributes:
        threads: CPU threads that compute; None for the machine's default, and on a GPU.
        variant: The variant that `vit-edge tune` kept here; None for the default.
    """

    precision: str
    backend: Backend
    threads: int | None = None
    variant: RunVariant | None = None

    @cached_property
    def key(self) -> str:
        """Names all that an engine, its check and its latency depend on, except the bundle."""
        backend = self.backend
        threads = "" if self.threads is None else f"|{self.threads} threads"
        start = key_start(self.precision, backend.name)
        key = f"{start}{backend.version()}|{backend.device()}{threads}"
        return key if self.variant is None else variant_key(key, self.variant)

    @property
    def default(self) -> Candidate:
        """The candidate as it runs without tuning."""
        return replace(self, variant=None)

    @cached_property
    def tuned_backend(self) -> Backend:
        """The backend with the settings of the variant. Raises SchemaError for unknown ones."""
        return self.backend if self.variant is None else self.backend.tuned(self.variant.settings)

    def __str__(self) -> str:
        tuned = "" if self.variant is None else f", tuned ({self.variant.name})"
        return f"{self.precision} on {self.backend.name}{tuned}"


class Blob(NamedTuple):
    """Verified bytes to open: an engine, or an ONNX graph with the files beside it that hold its
    weights.
    """

    data: bytes
    external: ExternalData = NO_EXTERNAL_DATA

    @property
    def size(self) -> int:
        return len(self.data) + sum(len(content) for content in self.external.values())


class Opened(NamedTuple):
    """An engine that was opened and has run golden samples.

    Attributes:
        candidate: The precision and the backend.
        session: The open engine, which the holder has to close.
        metrics: Comparison of its outputs with PyTorch's, by output name.
        problem: The violation of the bundle's tolerance, in words; None if there is none.
        size: Bytes of the graph or engine that was opened.
    """

    candidate: Candidate
    session: Session
    metrics: dict[str, Metrics]
    problem: str | None
    size: int

    @property
    def rms_error(self) -> float:
        """The largest error of the outputs."""
        return max(one.rms_error for one in self.metrics.values())


class Option(NamedTuple):
    """A candidate that can run here, with the facts that decide whether it is chosen.

    Attributes:
        candidate: The precision and the backend.
        finding: What is known about it here.
        size: Bytes of the graph that it runs, or that its engine is made from.
        ready: True if there is something to open without building it.
    """

    candidate: Candidate
    finding: Finding
    size: int
    ready: bool


class Deployment:
    """A bundle on this device.

    Attributes:
        bundle: The verified bundle.
        cache: The device's own files for it.
        threads: CPU threads that its engines compute with; None for the machine's default.
        variants: Those that `vit-edge tune` kept, by the key of the default candidate.

    Raises:
        InputError: if `threads` is not a whole number of at least 1.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        if threads is not None:
            _require_threads(threads)
        self.bundle, self.cache, self.threads = bundle, DeviceCache.of(bundle.digest), threads
        self._findings, self.variants = self.cache.read()

    def refresh(self) -> None:
        """Reads the device's cache again."""
        self._findings, self.variants = self.cache.read()

    @cached_property
    def golden(self) -> GoldenSamples:
        """The bundle's golden samples, verified. Raises BundleError if they are damaged."""
        return self.bundle.golden()

    def candidates(
        self, precision: str | None = None, backend: str | None = None
    ) -> list[Candidate]:
        """Lists the candidates of one precision and backend (None: all), runnable here or not, with
        the most promising unmeasured one first; each in the variant that was kept here, if any.

        Raises:
            InputError: if the bundle has no such precision, or there is no such backend.
        """
        entries = self.bundle.manifest.precisions
        if precision is not None and precision not in entries:
            raise InputError(
                f"the bundle has no precision {precision!r}: choose from {', '.join(entries)}"
            )
        names = list(entries) if precision is None else [precision]
        backends = list(BACKENDS.values()) if backend is None else [find_backend(backend)]
        candidates = []
        for known in backends:
            held = [n for n in names if known.graph in entries[n].graphs and n not in known.lacks]
            ranked = [(_rank(entries[n].graphs[known.graph], n, known), n) for n in held]
            threads = self.threads if known.graph == "cpu" else None
            candidates += [
                Candidate(name, known, threads) for _, name in sorted(ranked, key=lambda r: r[0])
            ]
        if not self.variants:
            return candidates
        return [self._in_kept_variant(candidate) for candidate in candidates]

    def _in_kept_variant(self, candidate: Candidate) -> Candidate:
        """Returns a candidate in the variant that was kept for it here; unchanged if none was kept,
        or if the variant cannot be used, which is logged.
        """
        start = key_start(candidate.precision, candidate.backend.name)
        if not any(key.startswith(start) for key in self.variants):
            return candidate  # without asking the backend anything
        if candidate.backend.run_problem() or candidate.key not in self.variants:
            return candidate
        tuned = replace(candidate, variant=self.variants[candidate.key])
        problem = self._variant_problem(tuned)
        if problem is None:
            return tuned
        _log.warning("%s is not used: %s; `vit-edge tune` finds another", tuned, problem)
        return candidate

    def _variant_problem(self, tuned: Candidate) -> str | None:
        """Returns why a kept variant cannot be used; None if it can."""
        try:
            _ = tuned.tuned_backend
        except SchemaError as error:
            return f"this version does not know its settings ({error})"
        if not self.has_engine(tuned):
            return "its engine is missing or was altered"
        return self.finding(tuned).refused

    def survey(self, candidates: Sequence[Candidate]) -> tuple[list[Option], dict[str, str]]:
        """Describes the candidates that can run here, and explains, by name, why other backends, or
        other candidates of backends that can run, cannot.
        """
        not_run = run_problems(c.backend for c in candidates)
        runnable = [c for c in candidates if c.backend.name not in not_run]
        unfit = device_problems(self, runnable)
        return [self.describe(c) for c in runnable if str(c) not in unfit], not_run | unfit

    def describe(self, candidate: Candidate) -> Option:
        """Returns a candidate that can run here with the facts that decide if it is chosen."""
        size, ready = self.size(candidate), self.has_engine(candidate)
        return Option(candidate, self.finding(candidate), size, ready)

    def graph(self, candidate: Candidate) -> Graph:
        """Returns the ONNX graph that the candidate's backend takes."""
        return self.bundle.manifest.precisions[candidate.precision].graphs[candidate.backend.graph]

    def device_problem(self, candidate: Candidate) -> str | None:
        """Explains why this GPU lacks the types of the candidate's graph; None if it has them.
        Called only if the backend's `run_problem` returns None.
        """
        least = self.graph(candidate).least_capability
        if not least:
            return None
        from .backends import cuda  # needed for GPUs only

        here = cuda.compute_capability()
        if cuda.at_least(here, least):
            return None
        return (
            f"{candidate.precision} needs a GPU of compute capability {least} or later, this one "
            f"has {here}"
        )

    def finding(self, candidate: Candidate) -> Finding:
        """Returns what is known about a candidate here."""
        return self._findings.get(candidate.key, Finding())

    def has_engine(self, candidate: Candidate) -> bool:
        """Tells whether there is something to open without building it."""
        if not candidate.backend.needs_engine or self.prebuilt(candidate) is not None:
            return True
        return self.cache.engine(candidate.key) is not None

    def prebuilt_problems(self, candidate: Candidate) -> list[str]:
        """Explains, with the remedy, why each of the bundle's own engines does not open here; empty
        if one does or the bundle has none.
        """
        problems = [candidate.backend.engine_problem(e) for e in self._engines(candidate)]
        return [] if None in problems else [problem for problem in problems if problem]

    def load(self, candidate: Candidate) -> Blob | None:
        """Reads the ONNX graph, a prebuilt engine or one built here; None if there is none."""
        if not candidate.backend.needs_engine:
            return Blob(*self.bundle.read_graph(self.graph(candidate)))
        prebuilt = self.prebuilt(candidate)
        if prebuilt is not None:
            return Blob(self.bundle.read(prebuilt.file))
        built = self.cache.engine(candidate.key)
        return None if built is None else Blob(built)

    def build(self, candidate: Candidate, options: BuildOptions) -> Built:
        """Builds an engine for this device from the bundle's ONNX and keeps it in the cache.

        Raises:
            BackendError: if this machine cannot build it.
            EngineError: if the library refuses the graph, or this GPU lacks its types.
        """
        built = self.compile(
            candidate, Blob(*self.bundle.read_graph(self.graph(candidate))), options
        )
        if candidate.backend.needs_engine:
            self.store(candidate.default, built)
        return built

    def compile(
        self,
        candidate: Candidate,
        onnx: Blob,
        options: BuildOptions,
        batch: tuple[int, ...] | None = None,
    ) -> Built:
        """Builds an engine from a graph, which may be written in another form than the bundle's,
        without keeping it.

        Args:
            candidate: Its precision and backend.
            onnx: The graph.
            options: As for `build`.
            batch: The profile (min, opt, max); None is the bundle's.

        Raises:
            BackendError, EngineError: as `build` does.
        """
        backend = candidate.backend
        problem = backend.build_problem()
        if problem:
            raise BackendError(f"cannot build {candidate} here: {problem}")
        problem = self.device_problem(candidate)
        if problem:
            raise EngineError(problem)
        complete = replace(
            options,
            external=onnx.external,
            timing_caches=timing_caches(),
            what=f"{candidate.precision} of {self.bundle.manifest.name}",
        )
        spec = self.bundle.manifest.spec
        return backend.compile(onnx.data, replace(spec, batch=batch or spec.batch), complete)

    def store(self, candidate: Candidate, built: Built) -> None:
        """Keeps an engine, and its builder's listing."""
        self.cache.store_engine(candidate.key, built.engine)
        self._findings[candidate.key] = Finding()
        if built.listing:
            self.cache.store_listing(candidate.key, built)

    def open(self, candidate: Candidate) -> Session:
        """Opens an engine, which is built first if there is none. Its outputs for the golden
        samples are checked at its first load on this device.

        Raises:
            BackendError, EngineError: if it cannot be built, opened or run.
            SelfCheckError: if its outputs are wrong here.
        """
        if self.finding(candidate).rms_error is not None:
            return self._open(candidate)[0]
        opened = self.open_checked(candidate, SAMPLES_AT_LOAD)
        if opened.problem is None:
            return opened.session
        opened.session.close()
        raise SelfCheckError(
            f"{candidate} failed the golden check: {opened.problem}; do not use it here, run "
            "`vit-edge check` and choose another"
        )

    def open_checked(self, candidate: Candidate, samples: int | None = None) -> Opened:
        """Opens an engine and runs its first golden samples (None: all); the outcome is remembered.

        Raises:
            BackendError, EngineError: if it cannot be built, opened or run.
        """
        opened, key = self.prove(candidate, *self._open(candidate), samples), candidate.key
        if opened.problem is None:
            self.cache.mark_right(key, opened.rms_error)
            known = replace(self.finding(candidate), rms_error=opened.rms_error, refused=None)
            self._findings[key] = known
        else:
            self._refuse(key, opened.problem)
        return opened

    def prove(
        self, candidate: Candidate, session: Session, size: int, samples: int | None
    ) -> Opened:
        """Runs the first golden samples (None: all) in a session, which is closed if that fails."""
        spec = self.bundle.manifest.spec
        try:
            metrics = run_golden(
                lambda x: run_frames(session, spec, x), self.golden, spec.outputs, samples
            )
        except BaseException:
            session.close()
            raise
        problem = tolerance_violation(metrics, self.graph(candidate))
        return Opened(candidate, session, metrics, problem, size)

    def refuse(self, candidate: Candidate, error: Exception) -> None:
        """Passes a candidate over from now on: on this device, until `check` finds it right; in
        this object alone if the reason may be temporary, such as memory that others hold.
        """
        if isinstance(error, ResourceError):
            self._findings[candidate.key] = Finding(refused=str(error))
        else:
            self._refuse(candidate.key, str(error))

    def remember_latency(
        self,
        candidate: Candidate,
        milliseconds: float,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Keeps the median latency of one image, and its interval if it is known."""
        self.cache.store_latency(candidate.key, milliseconds, interval)
        self._findings[candidate.key] = replace(
            self.finding(candidate), latency_ms=milliseconds, latency_interval_ms=interval
        )

    def size(self, candidate: Candidate) -> int:
        """Returns the bytes of the graph that it runs, or that its engine is made from."""
        graph, files = self.graph(candidate), self.bundle.manifest.files
        return sum(files[file].size for file in (graph.file, *graph.external))

    def _refuse(self, key: str, reason: str) -> None:
        self.cache.mark_refused(key, reason)
        self._findings[key] = Finding(refused=reason)

    def _open(self, candidate: Candidate) -> tuple[Session, int]:
        """Opens an engine, which is built first if there is none; returns its size in bytes too."""
        backend, blob = candidate.tuned_backend, self.load(candidate)
        if blob is None:
            if candidate.variant is not None:
                raise EngineError(f"the engine of {candidate} is missing or was altered")
            _log.warning(
                "no engine for %s on this device yet: building one (`vit-edge build` does it "
                "ahead)%s",
                candidate,
                "".join(f"; {problem}" for problem in self.prebuilt_problems(candidate)),
            )
            blob = Blob(self.build(candidate, BuildOptions()).engine)
        size, store = blob.size, self.cache.scratch(candidate.key)
        spec = self.bundle.manifest.spec
        return backend.open(blob.data, spec, blob.external, store, candidate.threads), size

    def prebuilt(self, candidate: Candidate) -> EngineEntry | None:
        """Returns the bundle's first engine that opens here; None if there is none."""
        engines, backend = self._engines(candidate), candidate.backend
        return next((e for e in engines if backend.engine_problem(e) is None), None)

    def _engines(self, candidate: Candidate) -> list[EngineEntry]:
        """Returns the bundle's own engines for a candidate; a variant has none."""
        if candidate.variant is not None:
            return []
        engines = self.bundle.manifest.precisions[candidate.precision].engines
        return [e for e in engines if e.backend == candidate.backend.name]


def key_start(precision: str, backend: str) -> str:
    """Returns the beginning that the keys of a precision on a backend share in the cache."""
    return f"{precision}|{backend}|"


def _require_threads(threads: int) -> None:
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputError(f"threads={threads!r}: a whole number, or None for what suits the machine")
    if threads < 1:
        raise InputError(f"threads={threads}: at least one thread computes")


def device_problems(deployment: Deployment, candidates: Iterable[Candidate]) -> dict[str, str]:
    """Explains, by candidate name, which candidates need types that this GPU lacks. Called only for
    backends that can run here.
    """
    problems = {str(c): deployment.device_problem(c) for c in candidates}
    return {name: problem for name, problem in problems.items() if problem}


def run_problems(backends: Iterable[Backend]) -> dict[str, str]:
    """Explains, by name and with the remedy, why backends cannot run here."""
    problems = {name: b.run_problem() for name, b in {b.name: b for b in backends}.items()}
    return {name: problem for name, problem in problems.items() if problem}


def _rank(graph: Graph, precision: str, backend: Backend) -> int:
    """Returns a graph's place in the order without measurements; the lowest comes first."""
    if graph.rank is not None:
        return graph.rank
    order = _OLDER_ORDER.get(backend.graph, ())
    return order.index(precision) if precision in order else len(order)
