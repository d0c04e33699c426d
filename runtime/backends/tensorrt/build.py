"""How TensorRT builds an engine: profile, target GPUs, flags, what is kept in it.

Source: TensorRT Python API (Builder, OnnxParser, IBuilderConfig).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError, InputError
from ...manifest import EngineSpec
from ..base import AskedProduct, Progress
from .asked import asked_products
from .open import Logger, require_made
from .progress import OutermostPhases, progress_monitor
from .timing import timing_cache


@dataclass(frozen=True)
class Recipe:
    """How an engine is built from a graph.

    Attributes:
        spec: What it takes and gives.
        compute_capabilities: GPUs to build for; empty is the library's own choice.
        flags: Names of builder flags to set.
        timings: The file of the timing cache, or None.
        max_aux_streams: How many streams beside the main one it may use; None is the library's own
            choice.
    """

    spec: EngineSpec
    compute_capabilities: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    timings: Path | None = None
    max_aux_streams: int | None = None


@dataclass(frozen=True)
class Plan:
    """An engine, and what its graph asked for."""

    engine: bytes
    products: tuple[AskedProduct, ...]


def build_plan(
    library: Any,
    logger: Logger,
    onnx: Path,
    recipe: Recipe,
    progress: Progress,
    messages: list[str],
) -> Plan:
    """Builds a strongly typed engine of the graph at `onnx`; the parser's errors are added to
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
    return Plan(bytes(plan), asked_products(library, network))


def parse_network(library: Any, builder: Any, logger: Any, onnx: Path, messages: list[str]) -> Any:
    """The strongly typed network of a graph.

    Raises:
        EngineError: if the parser refuses it; why is added to `messages`.
    """
    # TensorRT 11 knows no other networks and ignores the flag; 10 needs it.
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    # Weights beside the graph are found by the path that it is told. Source: IParser::parse.
    if not parser.parse(onnx.read_bytes(), str(onnx)):
        messages.extend(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError("the ONNX parser refused it")
    return network


def _build_config(library: Any, builder: Any, recipe: Recipe) -> Any:
    config, spec = builder.create_builder_config(), recipe.spec
    # TF32 would round fp32 matrix products to 10 bits: fp32 means fp32 here.
    config.clear_flag(library.BuilderFlag.TF32)
    for flag in recipe.flags:
        config.set_flag(getattr(library.BuilderFlag, flag))
    # So that the builder and the inspector tell what each layer runs in: no other kernels.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if recipe.max_aux_streams is not None:
        config.max_aux_streams = recipe.max_aux_streams
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.input_name, *((batch, *spec.image_shape) for batch in spec.batch))
    config.add_optimization_profile(profile)
    if recipe.compute_capabilities:
        _set_compute_capabilities(library, config, recipe.compute_capabilities)
    return config


def find_compute_capability(library: Any, capability: str) -> Any:
    """The library's own name for a compute capability such as "8.9".

    Raises:
        InputError: if it knows none of that name, or builds for the GPU it runs on only.
    """
    if not hasattr(library, "ComputeCapability"):
        raise InputError(
            f"full TensorRT builds for the GPU that is here only, not for {capability}"
        )
    names = [name for name in dir(library.ComputeCapability) if name.startswith("SM")]
    name = "SM" + capability.replace(".", "")
    if name not in names or f"{name[2:-1]}.{name[-1]}" != capability:
        known = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in names)
        raise InputError(f"no compute capability {capability!r}: choose from {known}")
    return getattr(library.ComputeCapability, name)


def _set_compute_capabilities(library: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Source: TensorRT for RTX, IBuilderConfig.set_compute_capability."""
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(find_compute_capability(library, capability), index)
