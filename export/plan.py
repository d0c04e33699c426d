"""Turns what the user asked for into a plan of what will be done.

All bad input that can be detected without decoding every image is found here, before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vit_edge.calibration.observers import DEFAULT_METHOD, require_method
from vit_edge.runtime.backends import BACKENDS, BuildOptions, find_backend
from vit_edge.runtime.backends.cuda import at_least
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import BackendError, BundleError, InputError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.metrics import QUICK, TimingBudget
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.hints import ModelHints

from .data import ExportData, find_data
from .doors import find_source
from .doors.source import Source
from .merging.schedule import AUTO, Asked, parse_merge
from .onnx_export import INPUT_NAME
from .package import require_replaceable
from .precision import DEFAULT_PRECISIONS, PRECISIONS, MergedPrecision, find_precision, merged_forms
from .precision.quantised import DEFAULT_EFFORT, EFFORTS, SearchEffort
from .user_code import Metric, load_metric

_MERGEABLE = tuple(name for name in PRECISIONS if merged_forms(name))
MAX_BATCH, _BATCH_BYTES = 32, 256 << 20
"""Largest batch of the engines by default, and the most bytes that its outputs may take."""


@dataclass(frozen=True)
class ExportRequest:
    """The options of `vit-edge export`; None is a default that depends on the other options.

    `model` is a name or a `torch.nn.Module`, `name` the bundle's own name. `facts` are what the
    user states about the model beside its weights; `outputs` are those to export, with their kinds
    where these are given, and all outputs if it is empty; `metric` is a measure of the user's own,
    or `FILE.py:FUNCTION`; `merge` is "auto", the number of tokens that every block merges, or a
    number for each block, and applies to each precision that has a merged form; `timing` is how
    long the latency on this machine is measured, which the command line does not offer.
    """

    model: object | None = None
    name: str | None = None
    onnx: Path | None = None
    weights: str | None = None
    config: Path | None = None
    facts: ModelHints = ModelHints()
    outputs: Mapping[str, str | None] = field(default_factory=dict)
    metric: str | Metric | None = None
    calibration: str | ImageSet | None = None
    evaluation: str | ImageSet | None = None
    precisions: tuple[str, ...] = DEFAULT_PRECISIONS
    targets: tuple[str, ...] | None = None
    out: Path | None = None
    merge: object | None = None
    max_drop: float | None = None
    max_batch: int | None = None
    calibration_size: int = 128
    method: str = DEFAULT_METHOD
    seed: int = 0
    effort: str = DEFAULT_EFFORT
    timing: TimingBudget = QUICK


@dataclass(frozen=True)
class Target:
    """A backend to build engines for, and the GPUs to build for; none: the library's own choice."""

    backend: str
    compute_capabilities: tuple[str, ...]

    def __str__(self) -> str:
        return "-".join(
            [self.backend, *(f"sm{c.replace('.', '')}" for c in self.compute_capabilities)]
        )

    def narrowed(self, least: str) -> Target | None:
        """The target without GPUs below the compute capability `least`; None if none is left."""
        backend = find_backend(self.backend)
        if not least or not isinstance(backend, TensorRT):
            return self
        known = self.compute_capabilities or backend.known_capabilities()
        fit = tuple(capability for capability in known if at_least(capability, least))
        if not fit:
            return None
        return replace(self, compute_capabilities=fit) if backend.builds_without_gpu else self


@dataclass(frozen=True)
class Plan:
    """A request with every option resolved.

    `notes` are for the user to read before the work starts.
    """

    source: Source
    data: ExportData
    precisions: tuple[str, ...]
    targets: tuple[Target, ...]
    out: Path
    spec: EngineSpec
    merge: Asked
    max_drop: float | None
    metric: Metric | None
    calibration_size: int
    method: str
    seed: int
    effort: SearchEffort
    timing: TimingBudget
    notes: tuple[str, ...]


def make_plan(request: ExportRequest) -> Plan:
    """Resolves a request.

    Raises:
        InputError: if anything in it is wrong.
        BackendError: if engines are asked for that cannot be built here.
    """
    precisions = _with_merged(request)
    require_method(request.method)
    if request.effort not in EFFORTS:
        raise InputError(f"unknown effort {request.effort!r}: choose from {', '.join(EFFORTS)}")
    if request.calibration_size < 1:
        raise InputError(f"--calibration-size {request.calibration_size}: give at least 1")
    if not 0 <= request.seed < 1 << 63:
        raise InputError(f"--seed {request.seed}: give a number from 0 to 2^63 - 1")
    if request.max_batch is not None and request.max_batch < 1:
        raise InputError(f"--max-batch {request.max_batch}: give at least 1")
    metric = load_metric(request.metric) if isinstance(request.metric, str) else request.metric
    if request.max_drop is not None and not 0 <= request.max_drop <= 100:
        raise InputError(f"--max-drop {request.max_drop}: give percentage points between 0 and 100")
    source = find_source(request)
    out = request.out or Path("build") / source.name
    require_replaceable(out)
    targets, notes = _find_targets(request.targets)
    data = find_data(
        request.calibration,
        request.evaluation,
        source.data,
        source.preprocess,
        source.classes,
        source.labels,
        request.calibration_size,
        request.seed,
        request.facts.folders,
    )
    return Plan(
        source=source,
        data=data,
        precisions=precisions,
        targets=targets,
        out=out,
        spec=_spec(source, request.max_batch),
        merge=AUTO if request.merge is None else parse_merge(request.merge),
        max_drop=request.max_drop,
        metric=metric,
        calibration_size=request.calibration_size,
        method=request.method,
        seed=request.seed,
        effort=EFFORTS[request.effort],
        timing=request.timing,
        notes=(
            *_describe(source, data),
            *data.notes,
            *notes,
            *_without_engines(precisions, targets),
            *_gone(out, precisions),
        ),
    )


def _with_merged(request: ExportRequest) -> tuple[str, ...]:
    """The precisions, each merged one after the one that it is made from."""
    names = list[str]()
    for name in request.precisions:
        precision = find_precision(name)
        if isinstance(precision, MergedPrecision):
            names.append(precision.base)
        names.append(name)
        if request.merge is not None:
            names += merged_forms(name)
    if request.merge is not None:
        parse_merge(request.merge)
        if not any(isinstance(find_precision(name), MergedPrecision) for name in names):
            raise InputError(
                f"--merge {request.merge}: none of {', '.join(names)} has a merged form; "
                f"{', '.join(_MERGEABLE)} have"
            )
    return tuple(dict.fromkeys(names))


def _spec(source: Source, asked: int | None) -> EngineSpec:
    """Inputs and outputs of the engines. Large outputs lower the default of the largest batch,
    because an engine reserves memory for it.
    """
    width = sum(output.size for output in source.outputs)
    max_batch = max(1, min(MAX_BATCH, _BATCH_BYTES // (4 * width))) if asked is None else asked
    try:
        batch = (1, min(8, max_batch), max_batch)
        return EngineSpec(INPUT_NAME, source.outputs, source.preprocess.shape, batch)
    except ValueError as error:
        raise InputError(f"--max-batch {max_batch}: {error}") from None


def parse_target(text: str) -> Target:
    """Parses `tensorrt-rtx` or `tensorrt-rtx:8.9,12.0`. Raises InputError for another backend."""
    name, _, capabilities = text.partition(":")
    find_backend(name)
    return Target(name, tuple(dict.fromkeys(c for c in capabilities.split(",") if c)))


def _find_targets(asked: tuple[str, ...] | None) -> tuple[tuple[Target, ...], list[str]]:
    """The targets to build for, and notes about those that are left out."""
    if asked is None:
        engines = [backend for backend in BACKENDS.values() if backend.needs_engine]
        problems = {backend.name: backend.build_problem() for backend in engines}
        notes = [f"no {name} engines: {problem}" for name, problem in problems.items() if problem]
        return tuple(Target(name, ()) for name, problem in problems.items() if not problem), notes
    targets = list(dict.fromkeys(parse_target(text) for text in asked))
    for target in targets:
        problem = find_backend(target.backend).build_problem()
        if problem:
            raise BackendError(f"cannot build for {target.backend} here: {problem}")
        options = BuildOptions(compute_capabilities=target.compute_capabilities)
        find_backend(target.backend).built_for(options)  # refuses GPUs that it does not know
    return tuple(t for t in targets if find_backend(t.backend).needs_engine), []


def _without_engines(precisions: Sequence[str], targets: Sequence[Target]) -> Iterator[str]:
    """Yields a note for each precision whose types no GPU of a target has."""
    for name in dict.fromkeys(precisions):
        least = find_precision(name).least_capability
        for target in targets:
            if target.narrowed(least) is None:
                yield f"no {name} engine for {target}: it needs compute capability {least} or later"


def _gone(out: Path, precisions: Sequence[str]) -> list[str]:
    """Notes the precisions of the bundle in `out` that the new one will not have."""
    try:
        present = Bundle.open(out).manifest.precisions
    except BundleError:  # there is none, or a damaged one, which is replaced
        return []
    gone = [name for name in present if name not in precisions]
    if not gone:
        return []
    return [
        f"{out} has {', '.join(gone)} too, which this export leaves out: name them with "
        "--precision to keep them, or choose another --out"
    ]


def _describe(source: Source, data: ExportData) -> list[str]:
    weights = (
        "random weights: its classes mean nothing"
        if source.random
        else f"weights: {source.weights}"
    )
    lines = [
        f"{source.name}, {weights}",
        f"calibration: {len(data.calibration)} images of {data.calibration.source}; "
        f"evaluation: {len(data.evaluation)} of {data.evaluation.source}",
    ]
    if source.inferred:
        lines.append(source.inferred)
    lines += source.notes
    return lines + ([f"assumed: {'; '.join(source.assumed)}"] if source.assumed else [])
