"""How TensorRT builds an engine: profile, target GPUs, timing cache, progress.

Source: TensorRT Python API (Builder, OnnxParser, IBuilderConfig, ITimingCache, IProgressMonitor).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import EngineError, InputError
from ..manifest import EngineSpec
from .base import BuildOptions, External, Progress


def build_plan(
    library: Any,
    logger: Any,
    onnx: bytes,
    spec: EngineSpec,
    options: BuildOptions,
    messages: list[str],
) -> bytes:
    """Builds a strongly typed engine; the parser's errors are added to `messages`.

    Raises:
        EngineError: if the parser or the builder refuses the graph.
    """
    builder = library.Builder(logger)
    # TensorRT 11 knows no other networks and ignores the flag; 10 needs it.
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    if not _parse(parser, onnx, options.external):
        messages.extend(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError("the ONNX parser refused it")
    config = _build_config(library, builder, spec, options)
    with _timing_cache(config, options.timing_cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder returned no engine")
    return bytes(plan)


def _parse(parser: Any, onnx: bytes, external: External) -> bool:
    """Source: IParser::parse. Weights beside the graph are found by the path that it is told."""
    if not external:
        return bool(parser.parse(onnx))
    with tempfile.TemporaryDirectory() as folder:  # of this user alone, with verified bytes
        for name, content in external.items():
            (Path(folder) / name).write_bytes(content)
        return bool(parser.parse(onnx, str(Path(folder) / "model.onnx")))


def _build_config(library: Any, builder: Any, spec: EngineSpec, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    # TF32 would round fp32 matrix products to 10 bits: fp32 means fp32 here.
    config.clear_flag(library.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.input_name, *((batch, *spec.image_shape) for batch in spec.batch))
    config.add_optimization_profile(profile)
    if options.compute_capabilities:
        _set_compute_capabilities(library, config, options.compute_capabilities)
    if options.progress is not None:
        config.progress_monitor = _progress_monitor(library, options.progress)
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


def _progress_monitor(library: Any, progress: Progress) -> Any:
    """Source: TensorRT IProgressMonitor. Phases nest; the outermost one is shown."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, step + 1, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            if steps is not None:
                progress(phase_name, steps, steps)

    return Monitor()


@contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Full TensorRT keeps its kernel timings in `path`, so that the next build is quicker."""
    if path is None:
        yield
        return
    old = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(old)
    if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another device or version
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(bytes(cache.serialize()))
    temporary.replace(path)
