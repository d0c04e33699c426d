"""The main path, top to bottom: from a model to a bundle of proven engines.

    weights or ONNX file -> reference, ONNX -> calibration table -> for each precision: graphs,
    accuracy, engines -> bundle

`baseline.py` knows the order of the stages before the precisions, `precision_pipeline.py` that of a
precision's, `merging/pipeline.py` that of a merged one's. How a stage does its work is in the
module that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import MANIFEST
from vit_edge.runtime.outputs import unpack
from vit_edge.runtime.tools.folders import recover

from .assemble import PrecisionResult, assemble
from .baseline import Baseline, make_baseline, read_passes
from .cache import StageCache, open_cache
from .class_order import better_order
from .evidence import remarks_on_calibration, remarks_on_reference
from .merging.pipeline import MergedPipeline
from .package import write_bundle
from .plan import ExportRequest, Plan, make_plan
from .precision import MergedPrecision, find_precision
from .precision_pipeline import PrecisionPipeline
from .progress import Display
from .report import Report, make_report, write_report
from .statistics import MeasureStatistics


def export_bundle(request: ExportRequest, display: Display) -> Report:
    """Makes the bundle that `request` asks for, and returns its report."""
    return export_and_measure(request, display)[0]


def export_and_measure(
    request: ExportRequest, display: Display
) -> tuple[Report, list[PrecisionResult]]:
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
        recover(plan.out, MANIFEST)
        baseline = make_baseline(plan, cache)
        for remark in _remarks(plan, baseline):
            display.note(remark)
            plan = replace(plan, notes=(*plan.notes, remark))
        results = [_make_pipeline(name, plan, baseline, cache).run() for name in plan.precisions]
        report = make_report(plan, results, read_passes(baseline.graph))
        if report.good:
            table, reference = baseline.calibrated, baseline.reference
            statistics = MeasureStatistics(reference, plan.spec, plan.seed)
            manifest, files = assemble(
                plan,
                results,
                table.read_table(),
                reference,
                table.table_file,
                cache.run(statistics),
            )
            with display.stage("bundle"):
                write_bundle(plan.out, manifest, files)
            cache.prune()
    try:
        write_report(report, results, plan.out)
    except OSError as error:
        state = "the new bundle was written" if report.good else "the old bundle is untouched"
        raise InputError(f"the report could not be written ({error}); {state}") from None
    return report, results


def _make_pipeline(
    name: str, plan: Plan, baseline: Baseline, cache: StageCache
) -> PrecisionPipeline:
    merged = isinstance(find_precision(name), MergedPrecision)
    return (MergedPipeline if merged else PrecisionPipeline)(name, plan, baseline, cache)


def _remarks(plan: Plan, baseline: Baseline) -> Iterator[str]:
    """Yields remarks on what the images cannot tell, and on a better order of the classes."""
    yield from remarks_on_calibration(plan.data.calibration)
    if plan.source.random:
        return
    reference = baseline.reference.load()
    yield from remarks_on_reference(reference)
    first = reference.outputs[0]
    if reference.labels is None or not plan.data.folders or not first.classifies:
        return
    values = unpack(reference.values, reference.outputs)[first.name]
    remark = better_order(values, reference.labels, plan.data.folders)
    if remark is not None:
        yield remark
