"""`vit-edge inspect`: contents and provenance of a bundle, and the layers of its engines."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..backends.base import Built
from ..backends.tensorrt import TensorRT
from ..bundle import Bundle
from ..deployment import Candidate, Deployment
from ..errors import BackendError, EngineError, InputError
from ..outputs import KINDS
from .check import Row
from .display import mebibytes, percent, print_table
from .plan.engine_plan import EnginePlan, decode_plan, plan_of
from .plan.layers import EngineLayer
from .plan.show import PLAN_COLUMNS, plan_cells, shares, shortfall

_GRAPH_COLUMNS = (
    "precision", "for", "file", "output", "agreement", "cosine", "error", "quantised",
    "measured on",
)  # fmt: skip
_COLUMNS = ("layer", "kind", "in", "out", "runs in")
_LONGEST = 60


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `inspect`."""
    parser.add_argument(
        "--layers", action="store_true", help="what each layer of its engines runs in"
    )
    parser.add_argument("--precision", metavar="P", help="with --layers: of this one only")
    parser.add_argument("--backend", metavar="B", help="with --layers: of this one only")


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints the manifest; every file's hash is verified first."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    bundle.verify()
    manifest, spec = bundle.manifest, bundle.manifest.spec
    if arguments.layers:
        show = print_json if arguments.json else print_tables
        show(read_all(bundle, arguments.precision, arguments.backend))
        return 0
    if arguments.precision or arguments.backend:
        raise InputError("--precision and --backend go with --layers")
    if arguments.json:
        rows = [dataclasses.asdict(row) for row in _stored_rows(bundle)]
        tuned = {str(c.default): dataclasses.asdict(c.variant) for c in _tuned(bundle) if c.variant}
        content = {"rows": rows, "manifest": dataclasses.asdict(manifest), "tuned": tuned}
        print(json.dumps(content, indent=2))
        return 0
    shape = ", ".join(map(str, spec.image_shape))
    print(
        f"{manifest.name}, bundle {bundle.digest[:16]}: {len(manifest.files)} files, all verified"
    )
    if bundle.signed is not None:
        print(bundle.signed)
    print(f"{spec.input_name}: uint8 [N, {shape}], N from {spec.batch[0]} to {spec.batch[2]}")
    for output in spec.outputs:
        sizes = "".join(f", {size}" for size in output.shape)
        print(f"{output.name}: float32 [N{sizes}], {output.kind}: {KINDS[output.kind].about}")
    for title, pairs in (
        ("model", manifest.model),
        ("made from", manifest.provenance),
        ("tools", manifest.tools),
    ):
        print_table(title, ("", ""), [(name, str(pairs[name])) for name in sorted(pairs)])
    _show_precisions(bundle)
    reference = manifest.statistics
    if reference is None:
        print("no reference statistics: `vit-edge drift` cannot judge images by this bundle")
    else:
        print(
            f"reference statistics of {reference.images} images ({reference.source}), by which "
            f"`vit-edge drift` judges: {', '.join(reference.names)}"
        )
    tuned_rows = [
        (c.precision, c.backend.name, c.variant.name, f"{c.variant.gain:.3g}")
        for c in _tuned(bundle)
        if c.variant
    ]
    if tuned_rows:
        columns = ("precision", "backend", "variant", "x default")
        print_table("tuned on this device", columns, tuned_rows)
    return 0


def _tuned(bundle: Bundle) -> list[Candidate]:
    """Lists what runs here in a variant that `vit-edge tune` kept."""
    return [c for c in Deployment(bundle).candidates() if c.variant is not None]


def _show_precisions(bundle: Bundle) -> None:
    precisions = bundle.manifest.precisions
    graphs = [
        (
            name,
            kind,
            g.file,
            output,
            percent(a.agreement),
            f"{a.cosine:.6f}",
            f"{a.rms_error:.2g}",
            shares(g.quantised),
            a.measured_on,
        )
        for name, entry in precisions.items()
        for kind, g in entry.graphs.items()
        for output in bundle.manifest.spec.output_names
        for a in [g.accuracy[output]]
    ]
    print_table("graphs", _GRAPH_COLUMNS, graphs)
    engines, plans = [], []
    for name, entry in precisions.items():
        for e in entry.engines:
            size = mebibytes(bundle.manifest.files[e.file].size)
            capabilities = ", ".join(e.compute_capabilities) or "the library's default"
            engines.append((name, e.file, size, f"{e.backend} {e.version}", capabilities))
            plans.append((name, e.backend, *plan_cells(e.plan)))
    print_table("engines", ("precision", "file", "size", "built by", "for"), engines)
    if plans:
        print_table("what their builder compiled", ("precision", "by", *PLAN_COLUMNS), plans)
    for name, entry in precisions.items():
        if entry.evidence:
            print(f"{name} was shipped on weak evidence: {entry.evidence}")
        if entry.raised:
            print(f"{name} leaves {', '.join(entry.raised)} in higher precision: {entry.reason}")


def _stored_rows(bundle: Bundle) -> list[Row]:
    """Returns the figures measured at export as rows of `compare`; `backend` is the kind."""
    spec = bundle.manifest.spec
    first = (spec.classifier or spec.outputs[0]).name
    return [
        Row(
            precision=name,
            backend=kind,
            status=graph.accuracy[first].measured_on,
            top1=graph.accuracy[first].top1,
            reference_top1=graph.accuracy[first].reference_top1,
            agreement=graph.accuracy[first].agreement,
            cosine=graph.accuracy[first].cosine,
            bytes=sum(bundle.manifest.files[f].size for f in (graph.file, *graph.external)),
        )
        for name, entry in bundle.manifest.precisions.items()
        for kind, graph in entry.graphs.items()
    ]


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
        built, blob = deployment.cache.listing(candidate.key), deployment.load(candidate)
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


def _cells(layer: EngineLayer) -> tuple[str, ...]:
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
