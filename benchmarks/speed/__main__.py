"""Our engines beside every other way to run a ViT on this CPU.

    python -m benchmarks.speed [--quick] [--markdown FILE]

ViT-Ti, S and B at batch 1 and 8; random weights, crops of two photographs. Every contender has a
process of its own and they take turns, so that whatever else the machine does affects all alike.
Accuracy is measured on the timed engines, the machine's peak beside it. Prints tables and writes
`benchmarks/results/speed.json`; `--markdown` also puts the tables into a document.

Takes under half an hour on 2 cores, and some minutes and 4 GB more on first use, for the peers'
environments. `--quick`: ViT-Ti at batch 1, without peers that need an environment of their own, in
under five minutes; writes `build/benchmarks/speed/quick.json`. Models and quantised files are kept
under `build/benchmarks/`, and an interrupted run goes on with the next model.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_edge.export.progress import Display

from ..documents import put_into
from . import measure, tables
from .contenders import CONTENDERS, QUICK, Contender
from .machine import describe, load, physical_cores
from .measure import Effort
from .peak import Peaks, better, measure_peaks
from .subject import Subject, sources_digest

CACHE = Path("build/benchmarks")


@dataclass(frozen=True)
class Plan:
    """Plan of a run: its models, contenders and effort, and the file of its report."""

    models: tuple[str, ...]
    contenders: tuple[Contender, ...]
    effort: Effort
    out: Path


FULL = Plan(
    ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    CONTENDERS,
    Effort(batches=(1, 8), rounds=8, round_s=0.15),
    tables.OUT,
)
SHORT = Plan(
    FULL.models[:1],
    QUICK,
    Effort(batches=(1,), rounds=8, round_s=0.15),
    CACHE / "speed" / "quick.json",
)


def run(plan: Plan) -> dict[str, Any]:
    """Makes the report, saved after each model to a file from which an interrupted run resumes."""
    unfinished = CACHE / "speed" / f"{plan.out.stem}.unfinished.json"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    report = _started(unfinished, plan)
    done = {model["model"] for model in report["models"]}
    display, threads = Display(), report["machine"]["threads"]

    def probe() -> None:
        peaks = Peaks.from_json(report["peaks"])
        report["peaks"] = better(peaks, measure_peaks(threads, unfinished.parent)).to_json()

    for name in plan.models:
        if name in done:
            display.cached(name)
            continue
        subject = Subject(name, CACHE)
        report["models"].append(
            measure.run(subject, plan.contenders, plan.effort, threads, probe, display)
        )
        report["machine"]["load_after"] = load()
        unfinished.write_text(json.dumps(report))
    unfinished.unlink()
    del report["made_by"]
    plan.out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _started(unfinished: Path, plan: Plan) -> dict[str, Any]:
    """Returns the report of an interrupted run of the same sources and plan, or a new one."""
    made_by = f"{sources_digest(*sorted(Path(__file__).parent.glob('*.*')))} {plan}"
    if unfinished.exists():
        report: dict[str, Any] = json.loads(unfinished.read_text())
        if report["made_by"] == made_by:
            return report
    threads = physical_cores()
    return {
        "made_by": made_by,
        "machine": describe(threads, plan.contenders),
        "peaks": measure_peaks(threads, unfinished.parent).to_json(),
        "models": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Our engines beside every peer, on this CPU.")
    parser.add_argument(
        "--quick", action="store_const", const=SHORT, default=FULL, dest="plan",
        help="ViT-Ti at batch 1, without peers that need an environment of their own",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, help="a document that gets the tables")
    options = parser.parse_args()
    report = tables.markdown(run(options.plan))
    print(report, end="")
    if options.markdown is not None:
        put_into(options.markdown, tables.NAME, report)


if __name__ == "__main__":
    main()
