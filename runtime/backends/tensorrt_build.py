"""How TensorRT builds an engine: profile, target GPUs, flags, what is kept in it.

Source: TensorRT Python API (Builder, OnnxParser, IBuilderConfig).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, InputError
from ..manifest import EngineSpec
from .base import BuildOptions, External
from .external import written_out
from .tensorrt_open import Logger, require_made
from .tensorrt_progress import Watch, progress_monitor
from .tensorrt_timing import timing_cache


@dataclass(frozen=True)
class Recipe:
    """How an engine is built from a graph.

    Attributes:
        spec: What it takes and gives.
        options: What the caller wants.
        flags: Names of builder flags to set.
        timings: The file of the timing cache, or None.
    """

    spec: EngineSpec
    options: BuildOptions
    flags: tuple[str, ...] = ()
    timings: Path | None = None


def build_plan(
    library: Any, logger: Logger, onnx: bytes, recipe: Recipe, watch: Watch, messages: list[str]
) -> bytes:
    """Builds a strongly typed engine; the parser's errors are added to `messages`.

    Raises:
        EngineError: if the parser or the builder refuses the graph, or the build was stopped.
    """
    builder = library.Builder(logger)
    require_made(builder, logger)
    network = parse_network(library, builder, logger, onnx, recipe.options.external, messages)
    config = _build_config(library, builder, recipe)
    config.progress_monitor = progress_monitor(library, watch)
    with timing_cache(config, recipe.timings):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder returned no engine")
    return bytes(plan)


def parse_network(
    library: Any, builder: Any, logger: Any, onnx: bytes, external: External, messages: list[str]
) -> Any:
    """The strongly typed network of a graph.

    Raises:
        EngineError: if the parser refuses it; why is added to `messages`.
    """
    # TensorRT 11 knows no other networks and ignores the flag; 10 needs it.
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    if not _parse(parser, onnx, external):
        messages.extend(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError("the ONNX parser refused it")
    return network


def _parse(parser: Any, onnx: bytes, external: External) -> bool:
    """Source: IParser::parse. Weights beside the graph are found by the path that it is told."""
    if not external:
        return bool(parser.parse(onnx))
    with written_out(onnx, external) as path:
        return bool(parser.parse(onnx, str(path)))


def _build_config(library: Any, builder: Any, recipe: Recipe) -> Any:
    config, spec = builder.create_builder_config(), recipe.spec
    # TF32 would round fp32 matrix products to 10 bits: fp32 means fp32 here.
    config.clear_flag(library.BuilderFlag.TF32)
    for flag in recipe.flags:
        config.set_flag(getattr(library.BuilderFlag, flag))
    # So that `inspect --layers` can tell what each layer runs in: descriptions, no other kernels.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.input_name, *((batch, *spec.image_shape) for batch in spec.batch))
    config.add_optimization_profile(profile)
    if recipe.options.compute_capabilities:
        _set_compute_capabilities(library, config, recipe.options.compute_capabilities)
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
