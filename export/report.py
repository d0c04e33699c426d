"""The report of an export: a table for the terminal, and `report.json` and `report.md` beside the
bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.display import mebibytes, percent, print_table
from runtime.schema import encode

from .assemble import PrecisionResult
from .explain import ABOUT, draw, explain
from .explain import COLUMNS as EXPLAINED
from .measure import LatencyHere
from .plan import Plan
from .search import count_parts

SHIPPED, HELD_BACK, MISSED = "shipped", "held back", "MISSED"
COLUMNS = ("precision", "for", "top-1", "drop", "agreement", "cosine", "size", "p50 here", "status")
MORE_COLUMNS = (
    "precision",
    "for",
    "reference top-1",
    "paired 95 % of drop",
    "worst error",
    "measured on",
)
ENGINE_COLUMNS = ("precision", "target", "version", "size", "status")


@dataclass(frozen=True)
class Report:
    """What an export did. `rows` are the table's cells; `results` the numbers behind them."""

    title: str
    notes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    repairs: tuple[str, ...]
    explanations: dict[str, tuple[tuple[str, ...], ...]]
    engines: tuple[tuple[str, ...], ...]
    passes: tuple[dict[str, Any], ...]
    oracle: str
    results: tuple[dict[str, Any], ...]
    good: bool


def make_report(plan: Plan, results: list[PrecisionResult], passes: list[dict[str, Any]]) -> Report:
    """Collects the results. The export is good if no precision has a problem."""
    good = all(result.problem is None for result in results)
    return Report(
        title=f"{plan.source.name}: {'shipped to' if good else 'NOT shipped to'} {plan.out}",
        notes=plan.notes,
        rows=tuple(row for result in results for row in _rows(result, good)),
        more=tuple(row for result in results for row in _more(result)),
        problems=tuple(f"{result.name}: {result.problem}" for result in results if result.problem),
        repairs=tuple(
            f"{result.name}: left {', '.join(result.raised.units)} in higher precision: "
            f"{result.raised.reason}"
            for result in results
            if result.raised
        ),
        explanations={r.name: tuple(explain(r)) for r in results if r.quantising},
        engines=tuple(
            (result.name, str(e.target), e.version, _size(e.file), "built; not run here")
            for result in results
            for e in result.engines
        ),
        passes=tuple(passes),
        oracle=plan.source.oracle,
        results=tuple(_numbers(result) for result in results),
        good=good,
    )


def _size(file: Path) -> str:
    return mebibytes(file.stat().st_size)


def _rows(result: PrecisionResult, good: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, graph in result.graphs.items():
        a = graph.accuracy
        drop = "-" if a.drop is None else f"{a.drop:+.2f}"
        p50 = _latency(result.latency) if result.latency and kind == "cpu" else "-"
        status = MISSED if result.problem else SHIPPED if good else HELD_BACK
        if result.raised:
            status += f", {count_parts(result.raised.units)} raised"
        numbers = (percent(a.top1), drop, percent(a.agreement), f"{a.cosine:.6f}")
        rows.append((result.name, kind, *numbers, mebibytes(graph.size), p50, status))
    return rows


def _latency(latency: LatencyHere) -> str:
    return f"{latency.p50_ms:.3f} ms, {latency.backend}"


def _more(result: PrecisionResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, graph in result.graphs.items():
        a = graph.accuracy
        interval = "-" if a.drop is None else f"{a.drop_low:+.2f} to {a.drop_high:+.2f}"
        error = f"{a.logit_error:.1e}"
        rows.append((result.name, kind, percent(a.reference_top1), interval, error, a.measured_on))
    return rows


def _numbers(result: PrecisionResult) -> dict[str, Any]:
    q = result.quantising
    return {
        "precision": result.name,
        "problem": result.problem,
        "raised": asdict(result.raised) if result.raised else None,
        "sensitivities": [asdict(s) for s in q.sensitivities] if q else [],
        "explanation": [asdict(site) for site in q.explanation] if q else [],
        "latency": asdict(result.latency) if result.latency else None,
        "graphs": {kind: asdict(graph.accuracy) for kind, graph in result.graphs.items()},
        "engines": [{"target": str(e.target), "version": e.version} for e in result.engines],
    }


def show_report(report: Report) -> None:
    """Prints the report to standard output."""
    print_table(report.title, COLUMNS, report.rows)
    if report.engines:
        print_table("engines", ENGINE_COLUMNS, report.engines)
    for repair in report.repairs:
        print(f"repaired  {repair}")
    for problem in report.problems:
        print(f"MISSED  {problem}")


def write_report(report: Report, results: Sequence[PrecisionResult], out: Path) -> Path:
    """Writes `<bundle>.report/`, which exists for failed exports too, and returns it."""
    folder = out.parent / f"{out.name}.report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(encode(report))
    (folder / "report.md").write_text(_markdown(report))
    for old in folder.glob(_picture("*")):
        old.unlink()
    for result in results:
        if result.quantising is not None:
            draw(result, folder / _picture(result.name))
    return folder


def _picture(name: str) -> str:
    return f"{name}.quantisation.png"


def _markdown(report: Report) -> str:
    lines = [*report.notes, *(f"repaired {repair}" for repair in report.repairs)]
    lines += [f"MISSED {problem}" for problem in report.problems]
    passes = [(p["name"], str(p["nodes_before"]), str(p["nodes_after"])) for p in report.passes]
    parts = [
        f"# {report.title}",
        "\n".join(f"- {line}" for line in lines),
        _table(COLUMNS, report.rows),
        f"The reference is {report.oracle}, in fp32, on the evaluation images. Drop is in "
        "percentage points of top-1, its interval is paired. The worst error is that of a logit, "
        "relative to the range of the reference's logits.",
        _table(MORE_COLUMNS, report.more),
        "## Engines",
        _table(ENGINE_COLUMNS, report.engines) if report.engines else "None were built here.",
        *_explained(report),
        "## Passes",
        _table(("pass", "nodes before", "nodes after"), passes),
    ]
    return "\n\n".join(parts) + "\n"


def _explained(report: Report) -> list[str]:
    """A section for each quantised precision."""
    parts = []
    for name, rows in report.explanations.items():
        picture = f"![what quantisation does to each part]({_picture(name)})"
        parts += [f"## {name}, part by part", ABOUT, _table(EXPLAINED, rows), picture]
    return parts


def _table(columns: tuple[str, ...], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
