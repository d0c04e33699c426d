"""Plans that one builder makes of our graphs and the peers', and estimates beside public figures.

    python -m benchmarks.plans [--quick | --newest] [--markdown FILE]

A ViT-B/16 with random weights, quantised by each, is built by TensorRT for RTX for compute
capability 8.9, without a GPU; what it lists of its kernels is read the same way for all. Ranges are
plain maxima: kernels do not depend on them. Then the latencies that are estimated from our plans
stand beside those that others measured. Prints tables and writes `benchmarks/results/plans.json`;
`--markdown` also puts the tables into a document.

Takes some ten minutes on 2 cores, and some minutes and 4 GB more on first use, for the peers'
environments. `--quick`: our own graphs of a ViT-B/16, without the peers and the public figures.
`--newest`: those of the precisions that GPUs of compute capability 12.0 are the first to run, built
for it, beside fp16 and FP8; the other tables stay as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from vit_edge.calibration.collect import Calibration, collect
from vit_edge.calibration.observers import Origin
from vit_edge.calibration.onnx_file import read_onnx, save_onnx
from vit_edge.export.engines import EngineBuilder
from vit_edge.export.forms import DEFAULT, write_in
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.plan import Target
from vit_edge.export.precision import PRECISIONS, tensors_to_observe
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import LOGITS, OutputSpec
from vit_edge.runtime.tools.images import from_array
from vit_edge.runtime.tools.plan.devices import find_device
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan
from vit_edge.runtime.tools.plan.estimate import HIGH, LOW, estimate
from vit_edge.runtime.tools.plan.show import plan_cells
from vit_edge.vit.datasets import samples
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .contest import Entrant, quantised
from .documents import put_into
from .figures import FIGURES, Figure

OUT = Path("benchmarks/results/plans.json")
CACHE = Path("build/benchmarks")
NAME, FIGURES_NAME = "plans", "figures"
MODEL = "vit_base_patch16_224"
CAPABILITY = "8.9"
DEVICES = ("AGX Orin", "RTX 4060", "L4")
NEWEST_NAME, NEWEST_CAPABILITY = "newest", "12.0"
NEWEST_DEVICES = ("RTX 5090", "Jetson Thor")
NEWEST = ("fp16", "fp8", "nvfp4", "nvfp4_weights")
OURS = ("fp16", "int8", "int8_attention", "mixed", "fp8", "fp8_attention", "int4")
PEERS = (
    Entrant("modelopt", "default", "modelopt"),
    Entrant("modelopt", "no attention, max", "modelopt"),
    Entrant("modelopt", "Linears, max", "modelopt"),
    Entrant("modelopt", "fp8", "modelopt"),
    Entrant("nncf", "transformer", "nncf"),
    Entrant("onnxruntime", "minmax", "onnxruntime"),
)
_CALIBRATION_IMAGES = 8
_COLUMNS = (
    "how", "Linear work in", "attention fused", "kernels", "a block", "dequantised", "copies",
    "waits", "moved",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One graph: its plan's cells and estimates by device and batch, or why it was refused."""

    how: str
    cells: tuple[str, ...]
    milliseconds: dict[str, dict[str, float | None]]
    problem: str = ""


class Graphs:
    """A variant's fp32 graph with random weights, and our precisions' graphs of it."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.folder = (CACHE / "plans" / variant).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        preprocess = find_variant(variant).preprocess
        self.images = next(samples("calibration", preprocess).batches(_CALIBRATION_IMAGES))
        np.save(self.folder / "calibration.npy", self.images)
        torch.manual_seed(0)
        model = VisionTransformer.from_config(find_variant(variant).config).eval()
        self.graph = export_onnx(model, preprocess, "logits")
        optimise(self.graph)
        self._calibration: Calibration | None = None

    @property
    def spec(self) -> EngineSpec:
        outputs = self.graph.graph.outputs[0].shape
        assert outputs is not None
        shape = find_variant(self.variant).preprocess.shape
        return EngineSpec(
            "images", (OutputSpec("logits", LOGITS, (int(outputs[-1]),)),), shape, (1, 8, 128)
        )  # type: ignore[arg-type]

    def fp32_file(self) -> Path:
        """The file of the fp32 graph, written for the peers."""
        save_onnx(self.graph, self.folder / "graph.onnx")
        return self.folder / "graph.onnx"

    def lowered(self, precision: str) -> ir.Model:
        """The graph that engines are built from."""
        if self._calibration is None:
            kinds = [PRECISIONS[name] for name in (*OURS, *NEWEST)]
            tensors = tensors_to_observe(self.graph.graph, kinds)
            images, origin = from_array("images", self.images, None), Origin("-", "-")
            self._calibration = collect(
                self.graph, tensors, images, "minmax", origin, lambda done, total: None
            )
        return PRECISIONS[precision].lower(self.graph, self._calibration)["gpu"]


def build(
    file: Path, spec: EngineSpec, how: str, form: dict[str, str], capability: str = CAPABILITY
) -> EnginePlan:
    """Builds the plan of the graph in `file`. Raises EngineError if the builder refuses it."""
    builder = EngineBuilder.for_target(Target("tensorrt-rtx", (capability,)), spec, how)
    content = read_onnx(file)
    built = builder.build(content, form, spec.batch)
    plan = builder.read_plan(content, form, built, estimates=True)
    assert plan is not None
    return plan


def row_of(
    how: str,
    file: Path,
    spec: EngineSpec,
    form: dict[str, str],
    capability: str = CAPABILITY,
    devices: Sequence[str] = DEVICES,
) -> Row:
    try:
        plan = build(file, spec, how, form, capability)
    except EngineError as error:
        return Row(how, (), {}, str(error))
    milliseconds = {name: _estimates(plan, name) for name in devices}
    return Row(how, plan_cells(plan.summary())[:-1], milliseconds)


def _estimates(plan: EnginePlan, device: str) -> dict[str, float | None]:
    estimates = {b.batch: estimate(b.layers, b.batch, find_device(device)) for b in plan.batches}
    return {str(batch): one and one.milliseconds for batch, one in estimates.items()}


def rows(graphs: Graphs, peers: Sequence[Entrant]) -> Iterator[Row]:
    """Measures ours in the default form, int8 as it was before forms, and the peers'."""
    before = {**DEFAULT, "qkv": "together", "streams": "library's choice"}
    for precision in OURS:
        model = graphs.lowered(precision)
        file = graphs.folder / f"{precision}.onnx"
        save_onnx(model, file)
        yield row_of(f"vit-edge {precision}", file, graphs.spec, dict(DEFAULT))
        if precision in ("int8", "fp8"):
            save_onnx(write_in(model, {"qkv": "together"}), file.with_suffix(".before.onnx"))
            how = f"vit-edge {precision}, QKV cut by the builder"
            yield row_of(how, file.with_suffix(".before.onnx"), graphs.spec, before)
    file, images = graphs.fp32_file() if peers else Path(), graphs.folder / "calibration.npy"
    for entrant in peers:
        made = quantised(entrant, file, images, CACHE)
        if made.error is not None:
            yield Row(entrant.name, (), {}, made.error)
        else:
            yield row_of(entrant.name, made.file, graphs.spec, {**DEFAULT})


def newest_rows(graphs: Graphs) -> Iterator[Row]:
    """Measures ours for the newest GPUs, in the default form."""
    for precision in NEWEST:
        file = graphs.folder / f"{precision}.onnx"
        save_onnx(graphs.lowered(precision), file)
        form = dict(DEFAULT)
        how = f"vit-edge {precision}"
        yield row_of(how, file, graphs.spec, form, NEWEST_CAPABILITY, NEWEST_DEVICES)


def compare_figures(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Puts each figure beside the estimate for the same shapes, precision and batch."""
    rows = []
    for model in dict.fromkeys(figure.model for figure in figures):
        graphs, plans = Graphs(model), dict[tuple[str, int], EnginePlan]()
        for figure in figures:
            key = (figure.precision, figure.batch)
            if figure.model == model and key not in plans:
                file = graphs.folder / f"{figure.precision}.onnx"
                save_onnx(graphs.lowered(figure.precision), file)
                spec = replace(graphs.spec, batch=(figure.batch,) * 3)
                plans[key] = build(file, spec, f"{figure.precision} of {model}", dict(DEFAULT))
            if figure.model == model:
                estimated = _estimates(plans[key], figure.device)[str(figure.batch)]
                rows.append({**asdict(figure), "estimate_ms": estimated})
                print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]], devices: Sequence[str]) -> str:
    """Formats a table of plans."""
    batches = ("1", "8")
    heads = [f"{device}, batch {batch}" for device in devices for batch in batches]
    lines = [_line((*_COLUMNS, *(f"{head}, ms" for head in heads)))]
    lines.append(_line(["---"] * (len(_COLUMNS) + len(heads))))
    for row in rows:
        if row["problem"]:
            lines.append(_line((row["how"], f"refused: {row['problem']}")))
            continue
        times = [row["milliseconds"][device][batch] for device in devices for batch in batches]
        lines.append(_line((row["how"], *row["cells"], *(_ms(time) for time in times))))
    return "\n".join(lines) + "\n"


def markdown(report: dict[str, Any]) -> tuple[str, str]:
    """Formats the table of plans, and that of public figures."""
    figures = [
        _line(
            (
                "device",
                "model",
                "precision",
                "batch",
                "measured, ms",
                "estimated",
                "ratio",
                "source",
            )
        )
    ]
    figures.append(_line(["---"] * 8))
    ratios = []
    for one in report["figures"]:
        ratios.append(one["milliseconds"] / one["estimate_ms"])
        cells = (one["device"], one["model"], one["precision"], str(one["batch"]))
        times = (f"{one['milliseconds']:g}", _ms(one["estimate_ms"]), f"{ratios[-1]:.2f}")
        figures.append(_line((*cells, *times, one["source"])))
    if ratios:
        inside = sum(LOW <= ratio <= HIGH for ratio in ratios)
        figures.append(
            f"\nMeasured over estimated: {geometric_mean(ratios):.2f} on average, from "
            f"{min(ratios):.2f} to {max(ratios):.2f}; {inside} of {len(ratios)} between {LOW} and "
            f"{HIGH}."
        )
    return table(report["rows"], DEVICES), "\n".join(figures) + "\n"


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{time:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def add_newest(document: Path | None) -> None:
    """Replaces the rows for the newest GPUs in the results, and their table in a document."""
    report, rows = json.loads(OUT.read_text()), list[dict[str, Any]]()
    for row in newest_rows(Graphs(MODEL)):
        print(row.how, *(row.cells or (row.problem,)), sep=" | ", flush=True)
        rows.append(asdict(row))
    report[NEWEST_NAME] = rows
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows, NEWEST_DEVICES), end="")
    if document is not None:
        put_into(document, NEWEST_NAME, table(rows, NEWEST_DEVICES))


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours and the peers' through one builder's eyes.")
    parser.add_argument("--quick", action="store_true", help="our own graphs alone")
    parser.add_argument("--newest", action="store_true", help="our own for the newest GPUs alone")
    parser.add_argument("--markdown", type=Path, help="a document that gets the tables")
    options = parser.parse_args()
    if options.newest:
        add_newest(options.markdown)
        return
    report: dict[str, Any] = {"model": MODEL, "rows": [], "figures": []}
    for row in rows(Graphs(MODEL), () if options.quick else PEERS):
        print(row.how, *(row.cells or (row.problem,)), sep=" | ", flush=True)
        report["rows"].append(asdict(row))
    if not options.quick:
        report["figures"] = compare_figures(FIGURES)
        report[NEWEST_NAME] = json.loads(OUT.read_text()).get(NEWEST_NAME, [])
        OUT.write_text(json.dumps(report, indent=1) + "\n")
    plans, figures = markdown(report)
    print(plans + figures, end="")
    if options.markdown is not None:
        put_into(options.markdown, NAME, plans)
        put_into(options.markdown, FIGURES_NAME, figures)


if __name__ == "__main__":
    main()
