"""`vit-edge inspect --layers`: what each layer of an engine runs in, against what was asked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..backends.base import Built
from ..backends.tensorrt import TensorRT
from ..bundle import Bundle
from ..deployment import Candidate, Deployment
from ..errors import BackendError, EngineError
from .display import print_table
from .plan.engine_plan import EnginePlan, decode_plan, plan_of
from .plan.layers import Layer
from .plan.show import PLAN_COLUMNS, plan_cells, shortfall

_COLUMNS = ("layer", "kind", "in", "out", "runs in")
_LONGEST = 60


def read_all(bundle: Bundle, precision: str | None, backend: str | None) -> dict[str, EnginePlan]:
    """The plan of every TensorRT engine of these wishes, by what it is: those that the bundle
    brings, and those that were built on this device.

    Raises:
        InputError: if the bundle has no such precision, or there is no such backend.
        BackendError: if there is none.
        EngineError: if a plan is not understood.
    """
    deployment = Deployment(bundle)
    candidates = deployment.candidates(precision, backend)
    plans = dict(_of_the_bundle(bundle, precision, backend))
    built, problems = _built_here(deployment, candidates)
    plans.update(built)
    if not plans:
        raise BackendError(f"no layers to show here: {'; '.join(dict.fromkeys(problems))}")
    return plans


def _of_the_bundle(
    bundle: Bundle, precision: str | None, backend: str | None
) -> Iterator[tuple[str, EnginePlan]]:
    for name, entry in bundle.manifest.precisions.items():
        for engine in entry.engines:
            selected = name == (precision or name) and engine.backend == (backend or engine.backend)
            if selected and engine.plan_file:
                yield f"{name}: {engine.file}", decode_plan(bundle.read(engine.plan_file))


def _built_here(
    deployment: Deployment, candidates: Sequence[Candidate]
) -> tuple[dict[str, EnginePlan], list[str]]:
    """The plans of engines in the device's cache, and why others have none."""
    plans, problems = dict[str, EnginePlan](), list[str]()
    for candidate in candidates:
        used = candidate.backend
        if not isinstance(used, TensorRT):
            problems.append(f"{used.name} has no layers to tell of: TensorRT does")
            continue
        problem = used.run_problem()
        if problem is not None:
            problems.append(f"{used.name}: {problem}")
            continue
        built, blob = deployment.cache.listing(candidate.key()), deployment.load(candidate)
        if blob is None:
            problems.append(
                f"no engine for {candidate} on this device: `vit-edge build BUNDLE --target "
                f"{used.name} --precision {candidate.precision}`"
            )
            continue
        try:
            if built is None:
                spec = deployment.bundle.manifest.spec
                built = Built(b"", used.inspect(blob.data, spec))
            plans[f"{candidate}, here"] = plan_of(f"{used.name} {used.version()}", built)
        except (BackendError, EngineError) as error:
            problems.append(f"{candidate}: {error}")
    return plans, problems


def print_json(plans: dict[str, EnginePlan]) -> None:
    """Prints one object; its `rows` are the engines."""
    rows: list[dict[str, Any]] = [
        {
            "engine": name,
            "layers": [
                {**dataclasses.asdict(layer), "precision": layer.precision} for layer in plan.layers
            ],
            "summary": dataclasses.asdict(plan.summary()),
        }
        for name, plan in plans.items()
    ]
    print(json.dumps({"rows": rows}, indent=2))


def print_tables(plans: dict[str, EnginePlan]) -> None:
    """Prints the layers of each engine, and below what became of what the graph asks."""
    for name, plan in plans.items():
        print_table(name, _COLUMNS, [_cells(layer) for layer in plan.layers])
        summary = plan.summary()
        print_table("in all", PLAN_COLUMNS, [plan_cells(summary)])
        for problem in (*summary.unmet, *summary.dequantised):
            print(f"  {problem}")
        if not shortfall(summary) and plan.products:
            print(f"all {len(plan.products)} matrix products run as the graph asks")


def _cells(layer: Layer) -> tuple[str, ...]:
    inputs = (*layer.inputs, *(t for t in layer.constants if len(t.shape) > 1))
    return (
        _short(layer.name),
        layer.kind,
        ", ".join(dict.fromkeys(t.dtype for t in inputs)),
        ", ".join(dict.fromkeys(t.dtype for t in layer.outputs)),
        layer.precision,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
