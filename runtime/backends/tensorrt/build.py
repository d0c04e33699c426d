"""Builds an engine from a graph: profile, target GPUs, flags, progress and timing cache.

Source: TensorRT Python API (Builder, OnnxParser, IBuilderConfig, IProgressMonitor, ITimingCache).
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ...errors import EngineError, InputError
from ...files import locked_if_possible, write_whole
from ...manifest import EngineSpec
from ..base import AskedProduct, Progress
from .inspect import asked_products
from .open import Library, Logger, RtxLibrary, require_made

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

_log = logging.getLogger("vit_edge.tensorrt")

_DIGEST = hashlib.sha256().digest_size
_MAX_TIMING_BYTES = 1 << 28


class FullLibrary(Library, Protocol):
    """Python module of TensorRT or TensorRT for RTX; lean has no builder, parser and inspector."""

    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    IProgressMonitor: type[trt.IProgressMonitor]
    LayerInformationFormat: type[trt.LayerInformationFormat]
    LayerType: type[trt.LayerType]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    OnnxParser: type[trt.OnnxParser]
    ProfilingVerbosity: type[trt.ProfilingVerbosity]


@dataclass(frozen=True)
class BuildRecipe:
    """Recipe of an engine: everything about a build except the graph.

    Attributes:
        spec: Its input and output.
        compute_capabilities: GPUs to build for; empty is the library's own choice.
        flags: Names of builder flags to set.
        timings: The file of the timing cache, or None.
        max_aux_streams: Streams that it may use beside the main one; None is the library's choice.
    """

    spec: EngineSpec
    compute_capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    timings: Path | None = None
    max_aux_streams: int | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """Engine, with the matrix products that its graph asked for."""

    engine: bytes
    products: tuple[AskedProduct, ...]


def build_plan(
    library: FullLibrary,
    logger: Logger,
    onnx: Path,
    recipe: BuildRecipe,
    progress: Progress,
    messages: list[str],
) -> BuiltPlan:
    """Builds a strongly typed engine from the graph at `onnx`; the parser's errors are added to
    `messages`.

    Raises:
        EngineError: if the parser or the builder refuses the graph.
    """
    builder = library.Builder(logger)
    require_made(builder, logger)
    network = parse_network(library, builder, logger, onnx, messages)
    config = _build_config(library, builder, recipe)
    config.progress_monitor = progress_monitor(library, OutermostPhases(progress))
    with timing_cache(config, recipe.timings):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder returned no engine")
    return BuiltPlan(bytes(plan), asked_products(library, network))


def parse_network(
    library: FullLibrary, builder: trt.Builder, logger: Logger, onnx: Path, messages: list[str]
) -> trt.INetworkDefinition:
    """Parses a graph into a strongly typed network.

    Raises:
        EngineError: if the parser refuses it; its reasons are added to `messages`.
    """
    # TensorRT 11 knows no other networks and ignores the flag; 10 needs it.
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    # The path leads the parser to the weights beside the graph. Source: IParser::parse.
    if not parser.parse(onnx.read_bytes(), str(onnx)):
        messages.extend(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError("the ONNX parser refused it")
    return network


def _build_config(
    library: FullLibrary, builder: trt.Builder, recipe: BuildRecipe
) -> trt.IBuilderConfig:
    config, spec = builder.create_builder_config(), recipe.spec
    # TF32 would round fp32 matrix products to 10 bits: fp32 means fp32 here.
    config.clear_flag(library.BuilderFlag.TF32)
    for flag in recipe.flags:
        config.set_flag(getattr(library.BuilderFlag, flag))
    # Lets builder and inspector show the type of each layer; the kernels are the same.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if recipe.max_aux_streams is not None:
        config.max_aux_streams = recipe.max_aux_streams
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.input_name, *((batch, *spec.image_shape) for batch in spec.batch))
    config.add_optimization_profile(profile)
    if recipe.compute_capabilities:
        rtx_config = cast("rtx.IBuilderConfig", config)
        _set_compute_capabilities(library, rtx_config, recipe.compute_capabilities)
    return config


def find_compute_capability(library: Library, capability: str) -> rtx.ComputeCapability:
    """Returns the library's own name for a compute capability such as "8.9".

    Raises:
        InputError: if it knows none of that name, or builds for the GPU it runs on only.
    """
    if not hasattr(library, "ComputeCapability"):
        raise InputError(
            f"full TensorRT builds for the GPU that is here only, not for {capability}"
        )
    known = known_capabilities(library)
    if capability not in known:
        raise InputError(f"no compute capability {capability!r}: choose from {', '.join(known)}")
    kinds, name = cast("RtxLibrary", library).ComputeCapability, "SM" + capability.replace(".", "")
    return cast("rtx.ComputeCapability", getattr(kinds, name))


def known_capabilities(library: Library) -> tuple[str, ...]:
    """Returns the compute capabilities that the library has names for, in rising order."""
    kinds = cast("RtxLibrary", library).ComputeCapability
    numbers = sorted(int(name[2:]) for name in dir(kinds) if re.fullmatch(r"SM\d+", name))
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def _set_compute_capabilities(
    library: Library, config: rtx.IBuilderConfig, capabilities: tuple[str, ...]
) -> None:
    """Source: TensorRT for RTX, IBuilderConfig.set_compute_capability."""
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(find_compute_capability(library, capability), index)


class OutermostPhases:
    """Reports the phases that are not part of another. The library calls it from any thread."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        if parent is None:
            with self._lock:
                self._steps[phase] = steps
            self._progress(phase, 0, steps)

    def advanced(self, phase: str, done: int) -> None:
        steps = self._steps.get(phase)
        if steps is not None:
            self._progress(phase, done, steps)

    def finished(self, phase: str) -> None:
        with self._lock:
            steps = self._steps.pop(phase, None)
        if steps is not None:
            self._progress(phase, steps, steps)


def progress_monitor(library: FullLibrary, phases: OutermostPhases) -> trt.IProgressMonitor:
    """Returns a monitor of the library's own type that calls `phases`."""
    if not TYPE_CHECKING:
        trt = library  # mypy has to know a base class

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.advanced(phase_name, step + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finished(phase_name)

    return Monitor()


def timing_file(folder: Path, library: str, version: str, device: str) -> Path:
    """Returns the file for timings of that library on that device, which both decide on kernels."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library}-{version}-{device}").strip("-")
    return folder / f"{plain}.timing"


@contextmanager
def timing_cache(config: trt.IBuilderConfig, path: Path | None) -> Iterator[None]:
    """Lets a build inside the block use the timings in `path` and add its own; None keeps none.

    One file for each library version and device, shared by all bundles. Losing it costs only time.
    """
    if path is None:
        yield
        return
    cache = _attach(config, _read(path))
    yield
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_if_possible(path.with_suffix(".lock")):
            _add_others(config, cache, _read(path))
            data = bytes(cache.serialize())
            write_whole(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        _log.info("the timing cache is not kept: %s", error)


def _attach(config: trt.IBuilderConfig, old: bytes) -> trt.ITimingCache:
    """Attaches a timing cache with the old timings, or an empty one if the library refuses them."""
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _add_others(config: trt.IBuilderConfig, cache: trt.ITimingCache, others: bytes) -> None:
    """Adds the timings that another process has measured meanwhile."""
    theirs = config.create_timing_cache(others) if others else None
    if theirs is not None:
        cache.combine(theirs, ignore_mismatch=False)


def _read(path: Path) -> bytes:
    """Returns the kept timings; empty if there are none or a byte has changed since, so that the
    library never parses damaged ones.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_TIMING_BYTES + 1)
    except OSError:
        return b""
    digest, data = content[:_DIGEST], content[_DIGEST:]
    good = len(content) <= _MAX_TIMING_BYTES and hashlib.sha256(data).digest() == digest
    return data if good else b""
