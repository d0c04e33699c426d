"""The main path, top to bottom: from a model to a bundle of proven engines.

    weights or ONNX file -> reference, ONNX -> calibration table -> for each precision: graphs,
    accuracy, engines -> bundle

Each stage fills a folder from its inputs; this file alone knows their order, the cache and the
display. How a stage does its work is in the module that it calls.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.collect import collect
from vit_edge.calibration.samples import save_samples
from vit_edge.calibration.table import read_table
from vit_edge.runtime.errors import EngineError, InputError

from .assemble import PrecisionResult, assemble
from .cache import StageCache, open_cache
from .foreign.source import ForeignSource
from .package import recover, write_bundle
from .plan import ExportRequest, Plan, make_plan
from .precision import find_precision, tensors_to_observe
from .progress import Display, Update
from .report import Report, make_report, write_report
from .search import search_raised
from .stages import PrecisionStages, Shared, origin_of
from .start import check_export, start_from_onnx, start_from_pytorch


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
        report = make_report(
            plan, results, json.loads((shared.start.onnx / "passes.json").read_text())
        )
        if report.good:
            table_file = shared.table / "table.json"
            manifest, files = assemble(
                plan,
                results,
                read_table(table_file),
                shared.start.reference / "golden.npz",
                table_file,
            )
            with display.stage("bundle"):
                write_bundle(plan.out, manifest, files)
            cache.prune()
    try:
        write_report(report, results, plan.out)
    except OSError as error:
        state = "the new bundle was written" if report.good else "the old bundle is untouched"
        raise InputError(f"the report could not be written ({error}); {state}") from None
    return report


def _run_shared_stages(plan: Plan, cache: StageCache) -> Shared:
    data = plan.data
    calibration = [data.calibration.origin, data.calibration.indices]
    evaluation = [data.evaluation.origin, data.evaluation.indices, data.evaluation.label_list()]
    source = plan.source
    if isinstance(source, ForeignSource):
        start = start_from_onnx(source, plan, evaluation, cache)
    else:
        start = start_from_pytorch(source, plan, evaluation, cache)

    check_export(start, plan, evaluation, cache)
    model = ir.load(start.onnx / "model.onnx")
    tensors = tensors_to_observe(model.graph, map(find_precision, plan.precisions))

    def table_stage(folder: Path, update: Update) -> None:
        origin = origin_of(plan, start)
        found = collect(model, tensors, data.calibration, plan.method, origin, update)
        (folder / "table.json").write_text(found.table.to_json())
        save_samples(folder, found.samples)

    table = cache.run(
        "calibration", [start.weights, start.onnx, tensors, plan.method, *calibration], table_stage
    )
    return Shared(start, table, calibration, evaluation)


def _run_precision(name: str, plan: Plan, shared: Shared, cache: StageCache) -> PrecisionResult:
    """Lowers, proves, repairs where that is needed and possible, then builds: engines are made of
    proven graphs only.
    """
    stages, raised = PrecisionStages(name, plan, shared, cache), None
    quantising = stages.quantise()
    attempt = stages.attempt(quantising, ())
    if attempt.miss and quantising is not None:
        raised = search_raised(
            quantising.sensitivities,
            attempt.miss,
            lambda units: stages.attempt(quantising, units).miss,
        )
        attempt = stages.attempt(quantising, raised.units if raised else ())
    result = PrecisionResult(name, attempt.graphs, attempt.miss, quantising, raised)
    if result.problem:
        return result
    if "cpu" in attempt.graphs:
        result = replace(result, latency=stages.measure_latency(attempt.graphs["cpu"].file))
    if "gpu" not in attempt.graphs:
        return result
    try:
        graph = attempt.graphs["gpu"]
        return replace(result, engines=tuple(stages.build(graph, t) for t in plan.targets))
    except EngineError as error:
        return replace(result, problem=str(error))
