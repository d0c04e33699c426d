"""The report of an export: a table for the terminal, and `report.json` and `report.md` beside the
bundle.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_edge.runtime.schema import encode
from vit_edge.runtime.tools.display import mebibytes, percent, print_table, say
from vit_edge.runtime.tools.plan.devices import PORTABLE, devices_for
from vit_edge.runtime.tools.plan.show import (
    ESTIMATE_COLUMNS,
    NOTE,
    PLAN_COLUMNS,
    EstimateRow,
    advice,
    estimate_cells,
    estimate_rows,
    plan_cells,
    shares,
    shortfall,
)

from .assemble import EngineResult, GraphResult, PrecisionResult
from .explain import ABOUT, draw, explain
from .explain import COLUMNS as EXPLAINED
from .forms import DEFAULT
from .measure import LatencyHere
from .plan import Plan
from .search import count_layers

MARKDOWN = "report.md"
SHIPPED, HELD_BACK, MISSED = "shipped", "held back", "MISSED"
WEAK = " on weak evidence"
_OUTPUT = "output"
COLUMNS = (
    "precision", "for", "output", "top-1", "drop", "agreement", "cosine", "error", "quantised",
    "size", "p50 here", "status",
)  # fmt: skip
MORE_COLUMNS = (
    "precision",
    "for",
    "output",
    "reference top-1",
    "paired 95 % of drop",
    "worst error",
    "your metric",
    "quantised work",
    "measured on",
)
HALF = 0.5
"""Share of the work below which the status calls a quantised precision quantised in part."""
ENGINE_COLUMNS = ("precision", "target", "size", "Linear work in", "fused", "a block", "status")
ENGINE_ROWS = ("precision", "target", "version", "form", *PLAN_COLUMNS, "memory of the build")

ABOUT_PLANS = (
    "What the builder compiled, by its own listing: the type that the Linears' multiplications "
    "run in; attentions that run as one kernel; kernels that a call launches, and from one "
    "attention to the next; layers whose weights are widened at every call; kernels that only "
    "bring numbers to another place; waits between streams; bytes that kernels read and write in "
    "one call."
)


@dataclass(frozen=True)
class Report:
    """Outcome of an export. `rows` are the table's cells; `results` the numbers behind them; `out`
    is the bundle's path.
    """

    title: str
    out: str
    notes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    merging: tuple[str, ...]
    weaknesses: tuple[str, ...]
    repairs: tuple[str, ...]
    explanations: dict[str, tuple[tuple[str, ...], ...]]
    engines: tuple[tuple[str, ...], ...]
    plans: tuple[tuple[str, ...], ...]
    estimates: tuple[tuple[str, ...], ...]
    advice: tuple[str, ...]
    passes: tuple[dict[str, Any], ...]
    oracle: str
    results: tuple[dict[str, Any], ...]
    good: bool


def make_report(plan: Plan, results: list[PrecisionResult], passes: list[dict[str, Any]]) -> Report:
    """Collects the results. The export is good if no precision has a problem."""
    good = all(result.problem is None for result in results)
    estimates = _estimates(plan, results)
    return Report(
        title=f"{plan.source.name}: {'shipped to' if good else 'NOT shipped to'} {plan.out}",
        out=str(plan.out),
        notes=(*plan.notes, *_left_out(passes)),
        rows=tuple(row for result in results for row in _rows(result, good)),
        more=tuple(row for result in results for row in _more(result)),
        problems=tuple(f"{result.name}: {result.problem}" for result in results if result.problem),
        merging=tuple(_merging(results)),
        weaknesses=tuple(f"{r.name}: {r.evidence}" for r in results if r.evidence),
        repairs=tuple(
            f"{result.name}: left {', '.join(result.fallback.layers)} in higher precision: "
            f"{result.fallback.reason}"
            for result in results
            if result.fallback
        ),
        explanations={r.name: tuple(explain(r)) for r in results if r.quantisation},
        engines=tuple(_engine(result.name, e) for result in results for e in result.engines),
        plans=tuple(_plan(result.name, e) for result in results for e in result.engines),
        estimates=tuple(map(estimate_cells, estimates)),
        advice=advice(estimates),
        passes=tuple(passes),
        oracle=plan.source.oracle,
        results=tuple(_numbers(result) for result in results),
        good=good,
    )


def _merging(results: Sequence[PrecisionResult]) -> Iterator[str]:
    """Yields lines on what merged precisions merge, what was left out, and whether it pays."""
    for result in results:
        if result.merging is not None:
            yield f"{result.name}: {result.merging}"
        if result.left_out:
            yield f"no {result.name}: {result.left_out}"
        yield from result.notes


def _left_out(passes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A line for each pass that does not fit the model."""
    return tuple(
        f"left out: to {p['name']}, which does not fit this model ({p['left_out']})"
        for p in passes
        if p.get("left_out")
    )


def _engine(name: str, engine: EngineResult) -> tuple[str, ...]:
    """Cells of `ENGINE_COLUMNS` for an engine."""
    size, summary = mebibytes(engine.file.stat().st_size), engine.summary
    if summary is None:
        return (name, str(engine.target), size, "-", "-", "-", "built; not run here")
    work, fused, _, block, *_ = plan_cells(summary)
    status = shortfall(summary) or "as asked"
    return (name, str(engine.target), size, work, fused, block, f"{status}; not run here")


def _plan(name: str, engine: EngineResult) -> tuple[str, ...]:
    changed = [f"{form}: {c}" for form, c in engine.form.items() if c != DEFAULT.get(form)]
    form = ", ".join(changed) or "default"
    memory = mebibytes(engine.plan.peak_bytes) if engine.plan else "-"
    return (name, str(engine.target), engine.version, form, *plan_cells(engine.summary), memory)


def _estimates(plan: Plan, results: Sequence[PrecisionResult]) -> tuple[EstimateRow, ...]:
    """Estimated latencies of each target's engines on the devices that the target is for."""
    rows: dict[EstimateRow, None] = {}
    for target in plan.targets:
        engines = {r.name: e for r in results for e in r.engines if e.target == target}
        plans = {name: e.plan for name, e in engines.items() if e.plan is not None}
        capabilities = {c for e in engines.values() for c in e.compute_capabilities or PORTABLE}
        devices = devices_for(sorted(capabilities)) if plans else ()
        rows.update(dict.fromkeys(estimate_rows(plans, devices)))
    return tuple(rows)


def _rows(result: PrecisionResult, good: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, graph in result.graphs.items():
        p50 = _latency(result.latency) if result.latency and kind == "cpu" else "-"
        status = MISSED if result.problem else SHIPPED if good else HELD_BACK
        if result.evidence and good:
            status += WEAK
        if result.fallback:
            status += f", {count_layers(result.fallback.layers)} in higher precision"
        if kind == "gpu":
            status += _not_as_asked(result)
        if result.quantisation is not None and graph.work.share < HALF:
            status += f", {result.name} in part: {100 * graph.work.share:.0f} % of the work"
        quantised = result.quantisation is not None or graph.work.shares
        share = f"{100 * graph.work.share:.0f} %" if quantised else "-"
        about: tuple[str, ...] = (share, mebibytes(graph.size), p50, status)
        for output, a in graph.accuracy.items():
            drop = "-" if a.drop is None else f"{a.drop:+.2f}"
            numbers = (percent(a.top1), drop, percent(a.agreement), f"{a.cosine:.6f}")
            error = f"{a.rms_error:.2g}"
            rows.append((result.name, kind, output, *numbers, error, *about))
            about = ("",) * len(about)  # these describe the whole graph: shown once
    return rows


def _not_as_asked(result: PrecisionResult) -> str:
    """Layers of a precision's engines that do not run as asked, for the status; "" if all do."""
    problems = [shortfall(e.summary) for e in result.engines if e.summary is not None]
    return "".join(f", {problem}" for problem in dict.fromkeys(problems) if problem)


def _latency(latency: LatencyHere) -> str:
    return f"{latency.p50_ms:.3f} ms, {latency.backend}"


def _more(result: PrecisionResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, graph in result.graphs.items():
        work = shares(graph.work.shares)
        for output, a in graph.accuracy.items():
            interval = "-" if a.drop is None else f"{a.drop_low:+.2f} to {a.drop_high:+.2f}"
            numbers = (percent(a.reference_top1), interval, f"{a.logit_error:.1e}")
            own = "-" if a.metric is None else f"{a.metric:.5g} ({a.reference_metric:.5g})"
            rows.append((result.name, kind, output, *numbers, own, work, a.measured_on))
    return rows


def _numbers(result: PrecisionResult) -> dict[str, Any]:
    fallback, q = result.fallback, result.quantisation
    return {  # other tools read these names: keep them
        "precision": result.name,
        "problem": result.problem,
        "evidence": result.evidence,
        "raised": fallback
        and {
            "units": fallback.layers,
            "kept": fallback.quantised_share,
            "reason": fallback.reason,
        },
        "sensitivities": [
            {"unit": s.layer, "cost": s.cost, "divergence": s.divergence, "error": s.error}
            for s in (q.sensitivities if q else ())
        ],
        "explanation": [asdict(layer) for layer in q.explanation] if q else [],
        "merging": asdict(result.merging) if result.merging else None,
        "left_out": result.left_out,
        "latency": asdict(result.latency) if result.latency else None,
        "graphs": {kind: _accuracies(graph) for kind, graph in result.graphs.items()},
        "quantised": {kind: graph.work.shares for kind, graph in result.graphs.items()},
        "engines": [
            {
                "target": str(e.target),
                "version": e.version,
                "form": dict(e.form),
                "plan": asdict(e.summary) if e.summary else None,
            }
            for e in result.engines
        ],
    }


def _accuracies(graph: GraphResult) -> dict[str, Any]:
    """Figures of the first output, and those of each by its name."""
    each = {name: asdict(accuracy) for name, accuracy in graph.accuracy.items()}
    return {**next(iter(each.values())), "outputs": each}


def _without_one_output(
    columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table, without the column of outputs if there is only one output."""
    place = columns.index(_OUTPUT)
    if len({row[place] for row in rows}) > 1:
        return columns, list(rows)
    narrow = [(*row[:place], *row[place + 1 :]) for row in (columns, *rows)]
    return narrow[0], narrow[1:]


def show_report(report: Report) -> None:
    """Prints the report to standard output."""
    print_table(report.title, *_without_one_output(COLUMNS, report.rows))
    if report.engines:
        print_table("engines", ENGINE_COLUMNS, report.engines)
    for line in report.merging:
        print(f"merging  {line}")
    for weakness in report.weaknesses:
        print(f"weak evidence  {weakness}")
    for repair in report.repairs:
        print(f"repaired  {repair}")
    for problem in report.problems:
        print(f"MISSED  {problem}")
    print(f"report: {report_folder(Path(report.out)) / MARKDOWN}")
    if report.good:
        command, bundle = _command(), shlex.quote(report.out)
        say(f"next:   {command} compare {bundle}   # latency and accuracy of all that runs here")
        say(f"        {command} inspect {bundle}   # contents; `check` tests it on a device")
        say(f"        vit_edge.Engine.load({report.out!r}) in an application")


def _command() -> str:
    """Returns the command `vit-edge` in a form that can be typed here."""
    if shutil.which("vit-edge"):
        return "vit-edge"
    script = Path(sys.executable).with_name("vit-edge")
    return os.path.relpath(script) if script.exists() else "python -m vit_edge"


def report_folder(out: Path) -> Path:
    """Returns `<bundle>.report/`, the folder beside a bundle."""
    return out.parent / f"{out.name}.report"


def write_report(report: Report, results: Sequence[PrecisionResult], out: Path) -> Path:
    """Writes `<bundle>.report/`, which exists for failed exports too, and returns it."""
    folder = report_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(encode(report))
    (folder / MARKDOWN).write_text(_markdown(report))
    for old in folder.glob(_picture("*")):
        old.unlink()
    for result in results:
        if result.quantisation is not None:
            draw(result, folder / _picture(result.name))
    return folder


def _picture(name: str) -> str:
    return f"{name}.quantisation.png"


def _markdown(report: Report) -> str:
    lines = [*report.notes, *(f"repaired {repair}" for repair in report.repairs)]
    lines += [f"merging {line}" for line in report.merging]
    lines += [f"weak evidence {weakness}" for weakness in report.weaknesses]
    lines += [f"MISSED {problem}" for problem in report.problems]
    passes = [(p["name"], str(p["nodes_before"]), str(p["nodes_after"])) for p in report.passes]
    parts = [
        f"# {report.title}",
        "\n".join(f"- {line}" for line in lines),
        _table(COLUMNS, report.rows),
        f"The reference is {report.oracle}, in fp32, on the evaluation images. Drop is in "
        "percentage points of top-1, its interval is paired. The error is the root mean square of "
        "the difference, relative to what tells images apart; the worst error is that of a single "
        "value, relative to the range of the reference's. Your metric is followed by the "
        "reference's. Quantised is the share of the model's multiplications: of Linears, of "
        "attention's products, of convolutions.",
        _table(MORE_COLUMNS, report.more),
        "## Engines",
        *_engines(report),
        *_explained(report),
        "## Passes",
        _table(("pass", "nodes before", "nodes after"), passes),
    ]
    return "\n\n".join(parts) + "\n"


def _engines(report: Report) -> list[str]:
    """Section on the engines: plans and estimated latencies."""
    if not report.engines:
        return ["None were built here."]
    parts = [_table(ENGINE_COLUMNS, report.engines), ABOUT_PLANS, _table(ENGINE_ROWS, report.plans)]
    if report.estimates:
        parts += ["## Estimated latency", NOTE, "\n".join(f"- {line}" for line in report.advice)]
        parts.append(_table(ESTIMATE_COLUMNS, report.estimates))
    return parts


def _explained(report: Report) -> list[str]:
    """A section for each quantised precision."""
    parts = []
    for name, rows in report.explanations.items():
        picture = f"![what quantisation does to each layer]({_picture(name)})"
        parts += [f"## {name}, part by part", ABOUT, _table(EXPLAINED, rows), picture]
    return parts


def _table(columns: tuple[str, ...], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
