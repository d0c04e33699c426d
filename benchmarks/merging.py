"""Token merging: images per second, accuracy with real labels, and where it pays on GPUs.

    python -m benchmarks.merging [--quick] [--focus FILE --images DIR] [--markdown FILE]

Three parts:
- a ViT-B/16 of random weights, whose speed is that of trained ones: our INT8 beside the same with
  so many tokens merged in every block but the last, in OpenVINO and ONNX Runtime;
- its engines for TensorRT for RTX: kernels and estimated times;
- trained models through the whole export with `--merge auto`: the digits model; a ViT of 36
  patches on rendered characters, with tokens that are given, because it is too small to gain; with
  `--focus` also DINOv2 ViT-S/14 (see `benchmarks.real_model`) behind a linear probe, which half of
  the labelled `--images` train and most of the others judge.

All engines of a row are open at once and take turns, so that whatever else the machine does affects
all alike; ratios are medians of pairs. Writes `benchmarks/results/merging.json`; `--markdown` puts
the tables into a document. Takes about 15 minutes on 2 cores, half of it to train the ViT, which is
kept under `build/benchmarks/`; `--focus` takes 15 more. `--quick`: few rounds, no ViT.

Expected: INT8 with 10 tokens merged in each block is at least 1.3 times as fast.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from vit_edge.calibration.collect import collect
from vit_edge.calibration.observers import Origin
from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.export.engines import EngineBuilder
from vit_edge.export.forms import DEFAULT
from vit_edge.export.merging.rewrite import merge_tokens
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.pipeline import export_and_measure
from vit_edge.export.plan import ExportRequest, Target
from vit_edge.export.precision import Graphs, find_precision, tensors_to_observe
from vit_edge.export.progress import Display, ignore
from vit_edge.export.quantise.layers import count_work
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.base import Session
from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import LOGITS, OutputSpec, compare
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.command_line import run_program
from vit_edge.runtime.tools.images import ImageSet, load_path, sample, split
from vit_edge.runtime.tools.plan.engine_plan import plan_of
from vit_edge.runtime.tools.plan.estimate import estimate
from vit_edge.runtime.tools.plan.layers import kernels
from vit_edge.vit.datasets import digits, samples
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .documents import put_into
from .merging_tables import tables
from .probe import fit_probe
from .real_model import MEAN, STD, add_embedding
from .speed.machine import load, physical_cores
from .subjects import PATCHES, subject

RESULTS = Path(__file__).parent / "results" / "merging.json"
CACHE = Path("build/benchmarks")
NAME = "merging"
BASE, MERGED = "int8", "int8_merged"
MODEL = "vit_base_patch16_224"
IN_EVERY_BLOCK = (4, 8, 10, 13, 16)
"""Tokens; 13 and 16 are those of the paper's tables."""
ON_GPUS = (8, 13)
BATCHES = (1, 8)
_EVALUATION, _CALIBRATION = 8_000, 512
_OF_CHARACTERS = (0, 4, 4, 8, 8, 0)
"""So small a model gains nothing, which `auto` says: these show what it costs in accuracy."""


@dataclass(frozen=True)
class Speed:
    """Images per second of INT8 and of the same merged, and the median ratio of their pairs.

    Attributes:
        merged: Tokens that each block merges.
        work_saved: Share of the multiplications.
    """

    model: str
    backend: str
    batch: int
    merged: tuple[int, ...]
    work_saved: float
    plain_per_s: float
    merged_per_s: float
    gain: float


@dataclass(frozen=True)
class OnGPU:
    """Estimated milliseconds of a call without merging and with it, and kernels."""

    model: str
    precision: str
    device: str
    batch: int
    merged: int
    plain_ms: float
    merged_ms: float
    plain_kernels: int
    merged_kernels: int


@dataclass(frozen=True)
class Trained:
    """A trained model through the export.

    Attributes:
        left_out: Why nothing is merged; "" if something is.
        plain, merged: What the report knows of both precisions.
        here: By backend, top-1 of both and the agreement of their decisions, measured on it.
        speed: Of both on this machine.
    """

    model: str
    images: int
    left_out: str
    plain: Mapping[str, Any]
    merged: Mapping[str, Any] | None
    here: Mapping[str, Mapping[str, float | None]]
    speed: tuple[Speed, ...]


def paired(
    sessions: tuple[Session, Session], images: NDArray[np.uint8], seconds: float
) -> tuple[float, float, float]:
    """Seconds of a call of each, and the median ratio of calls that follow each other."""
    pairs = list[tuple[float, float]]()
    for session in sessions:
        session.run(images)
    end = time.perf_counter() + seconds
    while len(pairs) < 5 or time.perf_counter() < end:
        times = list[float]()
        turn = (0, 1) if len(pairs) % 2 else (1, 0)  # neither is always first
        for index in turn:
            start = time.perf_counter()
            sessions[index].run(images)
            times.append(time.perf_counter() - start)
        pairs.append((times[turn.index(0)], times[turn.index(1)]))
    first, second = (median(column) for column in zip(*pairs, strict=True))
    return first, second, median(a / b for a, b in pairs)


def lowered_vit() -> tuple[Graphs, EngineSpec, ImageSet]:
    """INT8 graphs of a ViT-B/16 of random weights, by plain ranges: the speed is that of others."""
    variant = find_variant(MODEL)
    torch.manual_seed(0)
    model = VisionTransformer.from_config(variant.config).eval()
    graph = export_onnx(model, variant.preprocess, "logits")
    optimise(graph)
    images, precision = samples("calibration", variant.preprocess), find_precision(BASE)
    tensors = tensors_to_observe(graph.graph, [precision])
    origin = Origin("0" * 64, "0" * 64)
    observed = collect(graph, tensors, images.subset(range(4)), "minmax", origin, ignore)
    outputs = (OutputSpec("logits", LOGITS, (variant.config.num_classes,)),)
    spec = EngineSpec("images", outputs, variant.preprocess.shape, (1, 8, 32))
    return precision.lower(graph, observed), spec, images


def open_here(model: ir.Model, spec: EngineSpec, backend: str) -> Session:
    content = to_bytes(model)
    return BACKENDS[backend].open(content.graph, spec, content.external)


def measure_speed(
    graph: ir.Model, spec: EngineSpec, images: ImageSet, counts: tuple[int, ...], seconds: float
) -> Iterator[Speed]:
    """INT8 beside itself with each of `counts` tokens merged in every block but the last."""
    frames, blocks = next(images.batches(max(BATCHES))), 11
    whole = sum(part.total for part in count_work(graph.graph).parts)
    for backend in ("openvino", "onnxruntime"):
        plain = open_here(graph, spec, backend)
        for count in counts:
            schedule = (count,) * blocks
            merged_graph = merge_tokens(graph, schedule)
            merged = open_here(merged_graph, spec, backend)
            saved = 1 - sum(part.total for part in count_work(merged_graph.graph).parts) / whole
            for batch in BATCHES:
                one, other, gain = paired((plain, merged), frames[:batch], seconds)
                per_second = (batch / one, batch / other)
                yield Speed(MODEL, backend, batch, schedule, saved, *per_second, gain)
            merged.close()
        plain.close()


def estimate_on_gpus(graph: ir.Model, spec: EngineSpec, precision: str) -> Iterator[OnGPU]:
    """Plans of TensorRT for RTX, which builds without a GPU; nothing where it is not installed."""
    target = Target("tensorrt-rtx", ())
    if BACKENDS[target.backend].build_problem():
        return
    builder = EngineBuilder.for_target(target, spec, precision)

    def layers(model: ir.Model, batch: int) -> Any:
        built = builder.build(to_bytes(model), DEFAULT, (batch, batch, batch))
        return plan_of(target.backend, built).layers

    for batch in BATCHES:
        plain = layers(graph, batch)
        for count in ON_GPUS:
            merged = layers(merge_tokens(graph, (count,) * 11), batch)
            numbers = [sum(1 for _ in kernels(one)) for one in (plain, merged)]
            for device in builder.devices:
                one, other = (estimate(some, batch, device) for some in (plain, merged))
                if one is not None and other is not None:
                    times = (one.milliseconds, other.milliseconds)
                    yield OnGPU(
                        MODEL, precision, device.name, batch, count, *times, numbers[0], numbers[1]
                    )


def measure_trained(name: str, request: ExportRequest, out: Path, seconds: float) -> Trained:
    """Exports with `--merge auto`, and measures what was shipped on this machine."""
    report, results = export_and_measure(request, Display())
    if not report.good:
        raise SystemExit(f"{name}: {'; '.join(report.problems)}")
    by_name = {row["precision"]: row for row in report.results}
    left_out = next(result.left_out for result in results if result.name == MERGED)
    kept = ("graphs", "merging", "raised")
    plain, merged = ({k: by_name[p].get(k) for k in kept} for p in (BASE, MERGED))
    images, here, speeds = request.evaluation, dict[str, Any](), list[Speed]()
    assert isinstance(images, ImageSet)
    if left_out:
        return Trained(name, len(images), left_out, plain, None, {}, ())
    deployment = Deployment(Bundle.open(out))
    outputs = deployment.bundle.manifest.spec.outputs
    merging = by_name[MERGED]["merging"]
    for backend in ("openvino", "onnxruntime"):
        (one,), (other,) = (deployment.candidates(p, backend) for p in (BASE, MERGED))
        pair = (deployment.open(one), deployment.open(other))
        values = [np.concatenate([s.run(b) for b in images.batches(max(BATCHES))]) for s in pair]
        metrics = compare(values[1], values[0], outputs, images.labels)[outputs[0].name]
        here[backend] = {
            "plain_top1": metrics.reference_top1,
            "merged_top1": metrics.top1,
            "agreement": metrics.agreement,
            "rms_error": metrics.rms_error,
        }
        frames = next(images.batches(max(BATCHES)))
        for batch in BATCHES:
            first, second, gain = paired(pair, frames[:batch], seconds)
            rates = (batch / first, batch / second)
            schedule, saved = tuple(merging["tokens"]), merging["work_saved"]
            speeds.append(Speed(name, backend, batch, schedule, saved, *rates, gain))
        for session in pair:
            session.close()
    return Trained(name, len(images), "", plain, merged, here, tuple(speeds))


def requests(
    folder: Path, focus: Path | None, images: str | None, quick: bool
) -> Iterator[tuple[str, ExportRequest]]:
    """The trained models, by name."""
    common: dict[str, Any] = {"precisions": (BASE,), "merge": "auto", "targets": ()}
    variant = find_variant("vit_digits")
    yield (
        "vit_digits",
        ExportRequest(
            model="vit_digits",
            calibration=digits("calibration", variant.preprocess),
            evaluation=digits("evaluation", variant.preprocess),
            out=folder / "digits",
            **common,
        ),
    )
    if not quick:
        vit = subject(PATCHES, CACHE)
        p = vit.preprocess
        yield (
            "ViT of 36 patches, rendered characters",
            ExportRequest(
                model=vit.model,
                name="characters",
                facts=ModelHints(img_size=p.shape[:2], mean=p.mean, std=p.std),
                calibration=vit.calibration,
                evaluation=sample(vit.evaluation, _EVALUATION, 0),
                calibration_size=_CALIBRATION,
                out=folder / "characters",
                **{**common, "merge": _OF_CHARACTERS},
            ),
        )
    if focus is not None:
        preprocess = Preprocess(224, 224, 3, 1.0, "bicubic", MEAN, STD)
        labelled = load_path(Path(images or "."), preprocess)
        training, others = split(labelled, len(labelled) // 2, 0)
        calibration, evaluation = split(others, 96, 0)
        yield (
            "DINOv2 ViT-S/14, linear probe",
            ExportRequest(
                onnx=with_probe(focus, training, folder / "focus.onnx"),
                facts=ModelHints(mean=MEAN, std=STD),
                outputs={"logits": "logits"},
                calibration=_known(calibration),
                evaluation=_known(evaluation),
                calibration_size=96,
                out=folder / "focus",
                **common,
            ),
        )


def _known(images: ImageSet) -> ImageSet:
    """A set of its own, its labels the probe's classes."""
    origin = f"{images.origin} {len(images)} images"
    return replace(images, origin=origin, class_names=None)


def with_probe(focus: Path, images: ImageSet, file: Path) -> Path:
    """Writes the model with logits of a linear probe, fitted to the class tokens of `images`."""
    model = onnx.load(focus)
    add_embedding(model)
    del model.graph.output[:-1]
    (name,) = (value.name for value in model.graph.input)
    session = open_inference(model.SerializeToString(), {})
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (MEAN, STD))
    rows = [
        session.run(None, {name: (batch.transpose(0, 3, 1, 2) / np.float32(255) - mean) / std})[0]
        for batch in images.batches(1)
    ]
    if images.labels is None:
        raise InputError(f"{images.source} has no labels: the probe needs class folders")
    probe = fit_probe(np.concatenate(rows), images.labels)
    classes, graph = len(probe.bias), model.graph
    for stem, data in (("weight", probe.weight), ("bias", probe.bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(data, f"probe.{stem}"))
    inputs = ["embedding", "probe.weight", "probe.bias"]
    graph.node.append(onnx.helper.make_node("Gemm", inputs, ["logits"], name="probe/Gemm"))
    batch = graph.output[-1].type.tensor_type.shape.dim[0].dim_param or "batch"
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, classes])
    del graph.output[:]
    graph.output.append(output)
    onnx.save(model, file)
    return file


def run(arguments: argparse.Namespace) -> None:
    """Runs the benchmark, prints its tables and writes its results."""
    seconds = 1.0 if arguments.quick else 6.0
    counts = IN_EVERY_BLOCK[1:3] if arguments.quick else IN_EVERY_BLOCK
    start = time.perf_counter()
    threads = physical_cores()
    machine = {"cpu": BACKENDS["onnxruntime"].device(), "threads": threads, "load": load()}
    graphs, spec, images = lowered_vit()
    report: dict[str, Any] = {"machine": machine, "trained": []}
    report["speed"] = [
        asdict(row) for row in measure_speed(graphs["cpu"], spec, images, counts, seconds)
    ]
    report["gpus"] = [asdict(row) for row in estimate_on_gpus(graphs["gpu"], spec, BASE)]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        asked = requests(Path(folder), arguments.focus, arguments.images, arguments.quick)
        for name, request in asked:
            assert request.out is not None
            trained = measure_trained(name, request, request.out, seconds)
            report["trained"].append(asdict(trained))
    machine["load_after"], report["seconds"] = load(), round(time.perf_counter() - start)
    text = tables(report)
    print(text, end="")
    if arguments.quick:
        return
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.markdown is not None:
        put_into(arguments.markdown, NAME, text)
    print(f"results: {RESULTS}")


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds; writes no results")
    parser.add_argument("--focus", type=Path, metavar="FILE", help="vit_s_focus.onnx")
    parser.add_argument(
        "--images", metavar="DATA", help="labelled images for it: class folders or an .npz"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a document for the tables")
    arguments = parser.parse_args()
    return run_program("merging", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
