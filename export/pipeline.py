"""The main path, top to bottom: from a model to a bundle of proven engines.

    weights or ONNX file -> reference, ONNX -> calibration table -> for each precision: graphs,
    accuracy, engines -> bundle

Each stage fills a folder from its inputs; this file alone knows their order, the cache and the
display. How a stage does its work is in the module that it calls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from calibration.collect import Calibration, collect
from calibration.onnx_file import graph_digest, read_onnx, save_onnx
from calibration.samples import load_samples, save_samples
from calibration.table import read_table
from runtime.backends import BuildOptions, find_backend
from runtime.device_cache import DeviceCache
from runtime.errors import EngineError, InputError
from runtime.schema import decode, encode

from .accuracy import Proof, assess, budget_miss, golden_tolerance
from .assemble import EngineResult, GraphResult, PrecisionResult, assemble
from .cache import StageCache, open_cache
from .foreign.rebuild import compute_foreign_reference, rebuild, require_same, require_vit
from .foreign.source import ForeignSource, prepare_again
from .measure import how_to_measure, measure_here, measure_logits
from .onnx_export import export_onnx
from .package import recover, write_bundle
from .passes import PassReport, optimise
from .plan import ExportRequest, Plan, Target, make_plan
from .precision import find_precision, tensors_to_observe
from .progress import Display, Update
from .reference import compute_reference, load_reference, save_reference
from .report import Report, make_report, write_report
from .sources import ModelSource, load_model, make_weights


def export_bundle(request: ExportRequest, display: Display) -> Report:
    """Makes the bundle that `request` asks for.

    The report is always written; the bundle only if every precision met its budget.

    Raises:
        InputError: for bad input, before any work.
        BackendError: if engines are asked for that cannot be built here.
    """
    plan = make_plan(request)
    for line in plan.notes:
        display.note(line)
    with open_cache(plan.out.parent / ".stages" / plan.out.name, display) as cache:
        recover(plan.out)
        shared = _run_shared_stages(plan, cache)
        results = [_run_precision(name, plan, shared, cache) for name in plan.precisions]
        report = make_report(plan, results, json.loads((shared.onnx / "passes.json").read_text()))
        if report.good:
            table_file = shared.table / "table.json"
            manifest, files = assemble(
                plan, results, read_table(table_file), shared.reference / "golden.npz", table_file
            )
            with display.stage("bundle"):
                write_bundle(plan.out, manifest, files)
            cache.prune()
    try:
        write_report(report, plan.out)
    except OSError as error:
        state = "the new bundle was written" if report.good else "the old bundle is untouched"
        raise InputError(f"the report could not be written ({error}); {state}") from None
    return report


@dataclass(frozen=True)
class _Shared:
    """Folders of the stages that all precisions build on, and how the data enters a stage's key."""

    reference: Path
    onnx: Path
    table: Path
    evaluation: Sequence[object]


def _run_shared_stages(plan: Plan, cache: StageCache) -> _Shared:
    data = plan.data
    calibration = [data.calibration.origin, data.calibration.indices]
    evaluation = [data.evaluation.origin, data.evaluation.indices, data.evaluation.label_list()]
    source = plan.source
    if isinstance(source, ForeignSource):
        reference, onnx = _start_from_onnx(source, plan, evaluation, cache)
    else:
        reference, onnx = _start_from_pytorch(source, plan, evaluation, cache)

    def table_stage(folder: Path, update: Update) -> None:
        model = ir.load(onnx / "model.onnx")
        tensors = tensors_to_observe(model.graph, map(find_precision, plan.precisions))
        found = collect(model, tensors, data.calibration, plan.method, update)
        (folder / "table.json").write_text(found.table.to_json())
        save_samples(folder, found.samples)

    table = cache.run("calibration", [onnx, plan.method, *calibration], table_stage)
    return _Shared(reference, onnx, table, evaluation)


def _start_from_pytorch(
    source: ModelSource, plan: Plan, evaluation: Sequence[object], cache: StageCache
) -> tuple[Path, Path]:
    """The folders of the reference and of the optimised graph."""

    def weights_stage(folder: Path, update: Update) -> None:
        (folder / "model.safetensors").write_bytes(make_weights(source, plan.seed, update))

    weights = cache.run(
        "weights",
        [source.config, source.weights, source.weights_key, source.antialias, plan.seed],
        weights_stage,
    )
    weights_file = weights / "model.safetensors"

    def reference_stage(folder: Path, update: Update) -> None:
        logits = compute_reference(
            load_model(weights_file), source.preprocess, plan.data.evaluation, update
        )
        save_reference(folder, logits, plan.data.evaluation, plan.seed)

    def onnx_stage(folder: Path, update: Update) -> None:
        model = export_onnx(load_model(weights_file), source.preprocess, source.output)
        passes = optimise(model)
        _save_graph(model, passes, folder)

    onnx = cache.run("ONNX graph", [weights, source.preprocess, source.output], onnx_stage)
    inputs = [weights, source.preprocess, plan.seed, *evaluation]
    return cache.run("PyTorch reference", inputs, reference_stage), onnx


def _save_graph(model: ir.Model, passes: Sequence[PassReport], folder: Path) -> None:
    save_onnx(model, folder / "model.onnx")
    (folder / "passes.json").write_text(json.dumps([asdict(p) for p in passes]))


def _start_from_onnx(
    source: ForeignSource, plan: Plan, evaluation: Sequence[object], cache: StageCache
) -> tuple[Path, Path]:
    """The same from somebody else's file, which is its own reference."""

    def file_stage(folder: Path, update: Update) -> None:
        ir.save(prepare_again(source), folder / "model.onnx")

    original = cache.run("ONNX file", [source.weights_key], file_stage)

    def reference_stage(folder: Path, update: Update) -> None:
        model = ir.load(original / "model.onnx")
        logits = compute_foreign_reference(model, source.preprocess, plan.data.evaluation, update)
        save_reference(folder, logits, plan.data.evaluation, plan.seed)

    def onnx_stage(folder: Path, update: Update) -> None:
        model, before = ir.load(original / "model.onnx"), ir.load(original / "model.onnx")
        passes = (*rebuild(model, source.preprocess, source.output), *optimise(model))
        require_vit(model)
        require_same(before, model, source.preprocess)
        _save_graph(model, passes, folder)

    onnx = cache.run("ONNX graph", [original, source.preprocess, source.output], onnx_stage)
    inputs = [original, source.preprocess, plan.seed, *evaluation]
    return cache.run("ONNX reference", inputs, reference_stage), onnx


def _run_precision(name: str, plan: Plan, shared: _Shared, cache: StageCache) -> PrecisionResult:
    """Lowers, proves, then builds: engines are made of proven graphs only."""
    lowered = _lower(name, shared, cache)
    wanted = json.loads((lowered / "graphs.json").read_text())
    proofs = {
        (file, how): _prove(name, lowered / file, how, plan, shared, cache)
        for file, how in dict.fromkeys(map(tuple, wanted.values()))
    }
    graphs = {kind: proofs[tuple(key)] for kind, key in wanted.items()}
    budget = find_precision(name).budget.with_max_drop(plan.max_drop)
    misses = [budget_miss(graph.accuracy, budget, plan.source.random) for graph in graphs.values()]
    problem = next((miss for miss in misses if miss), None)
    if problem:
        return PrecisionResult(name, graphs, (), None, problem)
    p50 = _measure_latency(name, graphs["cpu"].file, plan, cache) if "cpu" in graphs else None
    try:
        engines = tuple(_build(name, graphs["gpu"].file, t, plan, cache) for t in plan.targets)
    except EngineError as error:
        return PrecisionResult(name, graphs, (), p50, str(error))
    return PrecisionResult(name, graphs, engines, p50, None)


def _lower(name: str, shared: _Shared, cache: StageCache) -> Path:
    """The folder with a precision's graphs; `graphs.json` says which serves what and how it is
    measured.
    """
    precision = find_precision(name)

    def graph_stage(folder: Path, update: Update) -> None:
        model, table = ir.load(shared.onnx / "model.onnx"), read_table(shared.table / "table.json")
        table.require(graph_digest(model))
        calibration = Calibration(table, load_samples(shared.table))
        graphs, files = precision.lower(model, calibration), dict[int, str]()
        for kind, graph in graphs.items():
            if id(graph) not in files:
                files[id(graph)] = f"{name}.{kind}.onnx" if files else f"{name}.onnx"
                save_onnx(graph, folder / files[id(graph)])
        wanted = {k: [files[id(graph)], how_to_measure(graph, k)] for k, graph in graphs.items()}
        (folder / "graphs.json").write_text(json.dumps(wanted))

    return cache.run(f"{name} graph", [shared.onnx, shared.table, precision], graph_stage)


def _measure_latency(name: str, file: Path, plan: Plan, cache: StageCache) -> float:
    """The median in milliseconds at batch 1 on this machine."""

    def latency_stage(folder: Path, update: Update) -> None:
        latency = measure_here(file, plan.spec, plan.data.evaluation)
        (folder / "latency.json").write_text(encode(latency))

    folder = cache.run(f"{name} latency", [file.parent, file.name, plan.spec], latency_stage)
    return float(json.loads((folder / "latency.json").read_text())["p50_ms"])


def _prove(
    name: str, file: Path, how: str, plan: Plan, shared: _Shared, cache: StageCache
) -> GraphResult:
    """Measures a graph against PyTorch on the evaluation images."""

    def accuracy_stage(folder: Path, update: Update) -> None:
        reference = load_reference(shared.reference, plan.data.evaluation, plan.source.output)
        measured = measure_logits(file, how, plan.spec, plan.data.evaluation, update)
        accuracy = assess(measured.logits, reference, measured.measured_on)
        proof = Proof(accuracy, golden_tolerance(measured.logits, reference))
        (folder / "proof.json").write_text(encode(proof))

    inputs = [file.parent, file.name, shared.reference, plan.spec, *shared.evaluation]
    folder = cache.run(f"{file.stem} accuracy, {how}", inputs, accuracy_stage)
    proof = decode(Proof, json.loads((folder / "proof.json").read_text()))
    return GraphResult(file, proof.accuracy, proof.rms_tolerance)


def _build(name: str, onnx: Path, target: Target, plan: Plan, cache: StageCache) -> EngineResult:
    backend = find_backend(target.backend)
    options = BuildOptions(
        compute_capabilities=target.compute_capabilities,
        timing_cache=DeviceCache.of("builds").timing_cache(backend.name),
    )
    built_for = backend.built_for(options)

    def engine_stage(folder: Path, update: Update) -> None:
        content = read_onnx(onnx)
        told = replace(
            options,
            external=content.external,
            progress=lambda what, done, total: update(done, total),
        )
        (folder / "engine").write_bytes(backend.compile(content.graph, plan.spec, told))

    inputs = [onnx.parent, onnx.name, target, built_for, plan.spec]
    folder = cache.run(f"{name} engine {target}", inputs, engine_stage)
    return EngineResult(folder / "engine", target, backend.version(), built_for)
