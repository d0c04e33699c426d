"""The beginning of the road: the reference and the optimised fp32 graph, of weights or of somebody
else's ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.runtime.errors import VitEdgeError

from .cache import StageCache
from .collapse import find_export_faults
from .foreign.rebuild import compute_foreign_reference, rebuild, require_same, require_vit
from .foreign.source import ForeignSource, prepare_again
from .onnx_export import export_onnx
from .passes import PassReport, optimise
from .plan import Plan
from .progress import Update
from .reference import compute_reference, load_reference, save_reference
from .sources import ModelSource, load_model, make_weights


@dataclass(frozen=True)
class Start:
    """Folders: of the weights as they came, of the reference, and of the optimised graph."""

    weights: Path
    reference: Path
    onnx: Path


def start_from_pytorch(
    source: ModelSource, plan: Plan, evaluation: Sequence[object], cache: StageCache
) -> Start:
    """Reads, trains or draws the weights."""

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
    return Start(weights, cache.run("PyTorch reference", inputs, reference_stage), onnx)


def _save_graph(model: ir.Model, passes: Sequence[PassReport], folder: Path) -> None:
    save_onnx(model, folder / "model.onnx")
    (folder / "passes.json").write_text(json.dumps([asdict(p) for p in passes]))


def start_from_onnx(
    source: ForeignSource, plan: Plan, evaluation: Sequence[object], cache: StageCache
) -> Start:
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
    return Start(original, cache.run("ONNX reference", inputs, reference_stage), onnx)


def check_export(start: Start, plan: Plan, evaluation: Sequence[object], cache: StageCache) -> None:
    """Compares the optimised graph, to which every lowering is compared, with the reference.

    Raises:
        VitEdgeError: if it gives other answers.
    """

    def check_stage(folder: Path, update: Update) -> None:
        images = plan.data.evaluation
        reference = load_reference(start.reference, images, plan.source.output).logits
        faults = find_export_faults(ir.load(start.onnx / "model.onnx"), images, reference)
        if faults:
            raise VitEdgeError(
                f"the exported graph is wrong: {faults[0]}. This is a bug: report it"
            )

    cache.run("export check", [start.reference, start.onnx, *evaluation], check_stage)
