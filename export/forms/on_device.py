"""Forms of a bundle's graph that are worth building on a device, for `vit-edge tune`.

The device's own builder is asked what each costs, by its plan, as at an export; but the cost model
can only estimate, so that the best few are built whole, and measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import inf

import onnx_ir as ir

from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.runtime.backends import BuildOptions, Built, RunVariant, cuda
from vit_edge.runtime.backends.base import written_out
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Blob, Candidate, Deployment
from vit_edge.runtime.manifest import Graph
from vit_edge.runtime.tools.display import say
from vit_edge.runtime.tools.plan.devices import Device, devices_for
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan, plan_of
from vit_edge.runtime.tools.profile.tensorrt import known_device
from vit_edge.runtime.tools.tune.variants import Proposal

from . import DEFAULT, GraphForm, aux_streams, write_in
from .search import Cost, FormTrial, search_form, shorten

_REFERENCE = "fp32"
AS_IT_IS = "the graph as it is"
"""Name of the default form, where the engine that runs so far has another."""


def find_forms(
    deployment: Deployment, candidate: Candidate, batch: int, most: int
) -> list[Proposal]:
    """Proposes engines of a candidate in the forms of its graph that cost least on this device.

    Args:
        deployment: The bundle on this device.
        candidate: Of a backend that needs engines.
        batch: The batch size to estimate for.
        most: How many.

    Raises:
        BackendError: if this machine cannot build.
        EngineError: if the builder refuses the graph in every form, or what it lists is not
            understood.
    """
    bundle, spec = deployment.bundle, deployment.bundle.manifest.spec
    model = _load(bundle, deployment.graph(candidate))
    short = _shortened(bundle, model)
    size = min(max(batch, spec.batch[0]), spec.batch[2])
    given_up = threading.Event()
    here = _capabilities_here(candidate)

    def compile_form(
        written: ir.Model, form: GraphForm, profile: tuple[int, ...] | None = None
    ) -> Built:
        content = to_bytes(written)
        options = BuildOptions(
            compute_capabilities=here,
            max_aux_streams=aux_streams(form),
            stopped=given_up.is_set,
        )
        return deployment.compile(
            candidate, Blob(content.graph, content.external), options, profile
        )

    def plan_form(written: ir.Model, form: GraphForm) -> EnginePlan:
        built = compile_form(written, form, (size, size, size))
        return plan_of(candidate.backend.name, built)

    say(f"  estimating forms of {candidate} ...")
    workers = 2 if _builds_without_gpu(candidate) else 1
    devices = _devices_here(candidate)
    searched = search_form(short, plan_form, size, devices, given_up.set, workers)
    new = [t for t in ranked(searched.trials) if not _runs(deployment, candidate, t.form, here)]
    return [
        Proposal(_variant(t.form, here), _builder(compile_form, model, t.form), _about(t.cost))
        for t in new[:most]
    ]


def ranked(trials: Sequence[FormTrial]) -> list[FormTrial]:
    """The trials that could be built, the one of the least cost first; each form once."""
    unique = {tuple(sorted(trial.form.items())): trial for trial in trials if trial.cost}

    def order(trial: FormTrial) -> tuple[int, float, int]:
        cost = trial.cost
        assert cost is not None
        estimate = inf if cost.milliseconds is None else cost.milliseconds
        return cost.faults, estimate, cost.kernels

    return sorted(unique.values(), key=order)


def _builder(
    compile_form: Callable[[ir.Model, GraphForm], Built], model: ir.Model, form: GraphForm
) -> Callable[[], Built]:
    return lambda: compile_form(write_in(model, form), form)


def _variant(form: GraphForm, capabilities: Sequence[str]) -> RunVariant:
    changed = {name: choice for name, choice in form.items() if choice != DEFAULT[name]}
    words = [f"{name}: {choice}" for name, choice in changed.items()] or [AS_IT_IS]
    words += [f"built for {capability} alone" for capability in capabilities]
    return RunVariant(", ".join(words), dict(form))


def _about(cost: Cost | None) -> str:
    if cost is None or cost.milliseconds is None:
        return ""
    return f"{cost.milliseconds:.3g} ms estimated for its blocks that differ"


def _load(bundle: Bundle, graph: Graph) -> ir.Model:
    """Reads a graph with its weights, verified."""
    with written_out(*bundle.read_graph(graph)) as path:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    return model


def _shortened(bundle: Bundle, model: ir.Model) -> ir.Model:
    """The graph without blocks that are like others, where the bundle tells which are."""
    entry = bundle.manifest.precisions.get(_REFERENCE)
    graph = None if entry is None else entry.graphs.get("gpu")
    return model if graph is None else shorten(model, _load(bundle, graph))


def _builds_without_gpu(candidate: Candidate) -> bool:
    return isinstance(candidate.backend, TensorRT) and candidate.backend.builds_without_gpu


def _capabilities_here(candidate: Candidate) -> tuple[str, ...]:
    """The compute capability to build for, of a library that would build for several."""
    backend, here = candidate.backend, cuda.compute_capability()
    if not isinstance(backend, TensorRT) or not backend.builds_without_gpu:
        return ()
    return (here,) if here in backend.known_capabilities() else ()


def _devices_here(candidate: Candidate) -> tuple[Device, ...]:
    known = known_device(candidate.backend.device())
    return devices_for((cuda.compute_capability(),)) if known is None else (known,)


def _runs(
    deployment: Deployment, candidate: Candidate, form: GraphForm, here: tuple[str, ...]
) -> bool:
    """Tells whether the engine that runs so far, the bundle's own or one that was built here, is of
    this form, and was built for no other GPUs where that is a choice.
    """
    engine = deployment.prebuilt(candidate)
    running = {**DEFAULT, **({} if engine is None else engine.form)}
    built_for = () if engine is None else engine.compute_capabilities
    return dict(form) == running and here in ((), built_for)
