"""Builds engines, searches the form of their graphs, and reads what the builder compiled."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from vit_edge.calibration.onnx_file import OnnxBytes, to_bytes
from vit_edge.runtime.backends import BuildOptions, Built, find_backend
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.device_cache import timing_caches
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import image_centred
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.runtime.tools.plan.devices import PORTABLE, Device, devices_for
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan, PlanAtBatch, plan_of
from vit_edge.runtime.tools.plan.listing import read_layers

from .forms import GraphForm, aux_streams
from .forms.search import FoundForm, at_once, search_form, shorten
from .measure import predict, widen
from .plan import Target
from .progress import Update, ignore

__all__ = ["EngineBuilder", "FoundForm", "same_outputs"]

_PROOF_IMAGES = 4
_log = logging.getLogger("vit_edge.export")


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines of a precision's graphs for a target.

    Attributes:
        built_for: See `runtime.backends.base.Backend.built_for`.
    """

    target: Target
    spec: EngineSpec
    precision: str
    built_for: tuple[str, ...]

    @classmethod
    def for_target(cls, target: Target, spec: EngineSpec, precision: str) -> EngineBuilder:
        """Returns a builder, after asking the library which GPUs it builds for."""
        options = BuildOptions(compute_capabilities=target.compute_capabilities)
        built_for = find_backend(target.backend).built_for(options)
        return cls(target, spec, precision, built_for)

    @cached_property
    def _given_up(self) -> threading.Event:
        return threading.Event()

    @property
    def _options(self) -> BuildOptions:
        return BuildOptions(
            compute_capabilities=self.target.compute_capabilities,
            timing_caches=timing_caches(),
            what=f"{self.precision} for {self.target}",
            stopped=self._given_up.is_set,
        )

    @property
    def version(self) -> str:
        return find_backend(self.target.backend).builder_version()

    @property
    def tells_plans(self) -> bool:
        """True if it builds in seconds, without a GPU, and lists what it compiled."""
        backend = find_backend(self.target.backend)
        return isinstance(backend, TensorRT) and backend.builds_without_gpu

    @property
    def devices(self) -> tuple[Device, ...]:
        """Devices that the target is for, or that are nearest to it."""
        return devices_for(self.built_for or PORTABLE)

    def build(
        self,
        content: OnnxBytes,
        form: GraphForm,
        batch: tuple[int, ...],
        update: Update = ignore,
    ) -> Built:
        """Builds a graph that is written in `form`.

        Raises:
            EngineError: if the builder refuses it, crashes, or takes too long.
        """
        options = replace(
            self._options,
            external=content.external,
            max_aux_streams=aux_streams(form),
            progress=lambda what, done, total: update(done, total),
        )
        spec = replace(self.spec, batch=batch)
        return find_backend(self.target.backend).compile(content.graph, spec, options)

    def read_plan(
        self, content: OnnxBytes, form: GraphForm, built: Built, estimates: bool
    ) -> EnginePlan | None:
        """Reads the plan of `built`; None if the builder lists nothing that is understood.

        If `estimates` is true and builds take seconds, the plan includes two further builds of the
        graph: only for the smallest batch size of the profile, and only for its optimal one.
        """
        if not built.listing:
            return None
        several = estimates and self.tells_plans
        sizes = sorted(set(self.spec.batch[:2])) if several else []

        def alone(size: int) -> PlanAtBatch | None:
            try:
                other = self.build(content, form, (size, size, size))
                return PlanAtBatch(size, read_layers(other.listing))
            except EngineError as error:
                _log.warning("no estimate at batch %s: %s", size, error)
                return None

        batches = [at for at in at_once(alone, sizes, self._given_up.set) if at is not None]
        try:
            return plan_of(f"{self.target.backend} {self.version}", built, batches)
        except EngineError as error:
            _log.warning("what runs in the engine is not known: %s", error)
            return None

    def search(self, model: ir.Model, fp32: ir.Model) -> FoundForm:
        """Finds the form of `model` that costs least at the optimal batch size of the engines.

        Args:
            model: A lowering of `fp32`, in its default form.
            fp32: The optimised fp32 graph.

        Raises:
            EngineError: if the builder refuses the graph in every form, or what it lists is not
                understood.
        """
        batch = self.spec.batch[1]

        def build(written: ir.Model, form: GraphForm) -> EnginePlan:
            built = self.build(to_bytes(written), form, (batch, batch, batch))
            return plan_of(self.target.backend, built)

        short = shorten(model, fp32)
        return search_form(short, build, batch, self.devices, self._given_up.set)


def same_outputs(one: ir.Model, other: ir.Model, images: ImageSet, tolerance: float) -> bool:
    """Returns True if two forms of a graph compute the same.

    Both run in 32 bits, because the forms round to 16 bits in a different order.

    Args:
        one: A form.
        other: Another one.
        images: Images, of which only the first few are used.
        tolerance: Largest root mean square of the difference, relative to that of the image-centred
            outputs.
    """
    if one is other:
        return True
    few = images.subset(range(min(_PROOF_IMAGES, len(images))))
    results = [predict(widen(model), few) for model in (one, other)]
    spread = float(np.sqrt((image_centred(results[0]) ** 2).mean()))
    difference = float(np.sqrt(((results[0] - results[1]) ** 2).mean()))
    return difference <= tolerance * max(spread, 1e-30)
