"""The report in Markdown.

    python -m benchmarks.speed.tables [REPORT] [--into FILE]

Prints the tables of a report that `benchmarks.speed` wrote, or puts them into a Markdown file
between the lines `<!-- speed -->` and `<!-- /speed -->`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..documents import put_into
from .intervals import Lead
from .peak import Peaks
from .verdicts import Line, Row, batches, lines, require_report, verdicts

OUT = Path("benchmarks/results/speed.json")
NAME = "speed"
"""Name of the tables in a document."""

_HEAD = ("how", "class", "p50 ms", "95 %", "p90 ms", "cosine", "agreement", "speed", "of peak")
"""`speed` is how many times as fast as the best peer of its class."""


def markdown(report: Row) -> str:
    """Formats all tables, the summary first."""
    require_report(report)
    peaks = Peaks.from_json(report["peaks"])
    parts = [*_machine(report["machine"], peaks), *_summary(report)]
    for model in report["models"]:
        for batch in batches(model):
            parts += [f"\n### {model['model']}, batch {batch}\n", *_table(model, batch, peaks)]
        parts += _refused(model)
    return "\n".join(parts) + "\n"


def _machine(machine: dict[str, Any], peaks: Peaks) -> Iterator[str]:
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    pinned = sorted({pin for pins in machine["environments"].values() for pin in pins})
    yield (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['date'][:10]}, load average "
        f"{machine['load'][0]:.1f} before and {machine['load_after'][0]:.1f} after; {libraries}"
        + (f"; in environments of their own: {', '.join(pinned)}." if pinned else ".")
    )
    if peaks.problem:
        yield f"\nPeak unknown: {peaks.problem}."
        return
    yield "\n| type | instructions | 10^9 multiply-adds a second, one core | all threads |"
    yield "| --- | --- | --- | --- |"
    for name, peak in peaks.by_type.items():
        if peak is None:
            yield f"| {name} | none | - | - |"
        else:
            yield (
                f"| {name} | {peak.instructions} | {peak.core_gmacs:.0f} | {peak.all_gmacs:.0f} |"
            )


def _summary(report: Row) -> Iterator[str]:
    yield "\n| model | batch | class | our fastest | best peer | ours is as fast | verdict |"
    yield "| --- " * 7 + "|"
    for model in report["models"]:
        for batch in batches(model):
            for v in verdicts(model, batch):
                yield (
                    f"| {model['model']} | {batch} | {v.type} | {v.ours} | {v.peer} "
                    f"| {_times(v.lead)} | **{v.lead.verdict}** |"
                )


def _table(model: Row, batch: str, peaks: Peaks) -> Iterator[str]:
    yield "| " + " | ".join(_HEAD) + " |"
    yield "| --- " * len(_HEAD) + "|"
    for line in lines(model, batch, peaks):
        yield "| " + " | ".join(_cells(line)) + " |"


def _cells(line: Line) -> Iterator[str]:
    yield f"**{line.name}**" if line.is_ours else line.name
    yield line.type
    yield f"{line.latency.p50_ms:.2f}"
    yield f"{line.latency.low_ms:.2f} to {line.latency.high_ms:.2f}"
    yield f"{line.latency.p90_ms:.2f}"
    yield f"{line.cosine:.5f}" + ("" if line.counts else " (does not count)")
    yield f"{100 * line.agreement:.0f} %"
    yield "-" if line.lead is None else _times(line.lead)
    yield "-" if line.peak_share is None else f"{100 * line.peak_share:.0f} %"


def _times(lead: Lead) -> str:
    return f"{lead.ratio:.2f} ({lead.low:.2f} to {lead.high:.2f})"


def _refused(model: Row) -> Iterator[str]:
    refused = [row for row in model["rows"] if row["problem"]]
    if refused:
        yield "\nNot run:\n"
    for row in refused:
        yield f"- {row['contender']}: {row['problem']}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the tables of a speed report.")
    parser.add_argument("report", nargs="?", type=Path, default=OUT)
    parser.add_argument("--into", type=Path, help="a Markdown file with the two marks")
    options = parser.parse_args()
    tables = markdown(json.loads(options.report.read_text()))
    if options.into is None:
        print(tables, end="")
    else:
        put_into(options.into, NAME, tables)


if __name__ == "__main__":
    main()
