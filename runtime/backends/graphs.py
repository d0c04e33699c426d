"""What all backends share that run the bundle's ONNX graphs as they are."""

from __future__ import annotations

from ..manifest import EngineEntry, EngineSpec
from .base import BuildOptions, Built


class RunsGraphs:
    """The part of `runtime.backends.base.Backend` for which there is nothing to build."""

    needs_engine = False

    def version(self) -> str:
        raise NotImplementedError

    def run_problem(self) -> str | None:
        raise NotImplementedError

    def built_for(self, options: BuildOptions) -> tuple[str, ...]:
        return ()

    def builder_version(self) -> str:
        return self.version()

    def engine_problem(self, engine: EngineEntry) -> str | None:
        return None

    def build_problem(self) -> str | None:
        return self.run_problem()

    def compile(self, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        """It compiles as it opens: the graph itself is the engine."""
        return Built(onnx)
