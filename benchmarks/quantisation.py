"""How faithful INT8 is, by calibration method, with and without outliers.

    python -m benchmarks.quantisation

Models: `vit_digits`, trained; the same with a few channels behind each LayerNorm made 50 times
larger and the weights that read them smaller (the function does not change: what training does to
large ViTs); ViT-Ti/16 with random weights, likewise. Calibrated on the usual images, compared with
fp32 on the held-back ones, in ONNX Runtime. Prints a table and writes
`benchmarks/results/quantisation.json`. Takes a few minutes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from calibration.observers import METHODS, SEARCH
from calibration.onnx_file import to_bytes
from export.onnx_export import export_onnx
from export.passes import optimise
from export.precision.int8 import INT8
from runtime.backends import BACKENDS
from runtime.images import ImageSet
from runtime.manifest import EngineSpec
from runtime.metrics import measure
from tests.calibrate import calibrate
from vit.datasets import DATASETS
from vit.training.digits import train_digits
from vit.variants import Variant, find_variant
from vit.vision_transformer import VisionTransformer

OUT = Path("benchmarks/results/quantisation.json")
STRENGTH, SHARE = 50.0, 0.02
BATCH = 8


def with_outliers(model: VisionTransformer) -> VisionTransformer:
    """The same function; some channels behind every LayerNorm are `STRENGTH` times larger."""
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in changed.blocks:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                width = norm.weight.numel()
                gain = torch.ones(width)
                gain[torch.randperm(width, generator=generator)[: max(2, int(SHARE * width))]] = (
                    STRENGTH
                )
                norm.weight.mul_(gain)
                norm.bias.mul_(gain)
                linear.weight.div_(gain)
    return changed


def models() -> Iterator[tuple[str, Variant, VisionTransformer]]:
    digits, tiny = find_variant("vit_digits"), find_variant("vit_tiny_patch16_224")
    trained = train_digits(0, lambda done, total: None)
    torch.manual_seed(0)
    random = VisionTransformer.from_config(tiny.config).eval()
    for name, variant, model in (
        ("vit_digits, trained", digits, trained),
        ("ViT-Ti/16, random weights", tiny, random),
    ):
        yield name, variant, model
        yield f"{name}, outliers", variant, with_outliers(model)


def logits(graph: ir.Model, spec: EngineSpec, images: ImageSet) -> np.ndarray:
    content = to_bytes(graph)
    session = BACKENDS["onnxruntime"].open(content.graph, spec, content.external)
    return np.concatenate([session.run(batch) for batch in images.batches(BATCH)])


def main() -> None:
    rows = []
    print("| model | method | relative RMS error | 1 - cosine | agreement | top-1 | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, variant, model in models():
        calibration, evaluation = (
            DATASETS[variant.data](split, variant.preprocess)
            for split in ("calibration", "evaluation")
        )
        graph = export_onnx(model, variant.preprocess, "logits")
        optimise(graph)
        shape, classes = variant.preprocess.shape, variant.config.num_classes
        spec = EngineSpec("images", "logits", shape, classes, (1, 1, BATCH))
        reference = logits(graph, spec, evaluation)
        for method in (*METHODS, SEARCH):
            start = time.perf_counter()
            found = calibrate(graph, calibration, method)
            quantised = INT8().lower(graph, found)["cpu"]
            seconds = time.perf_counter() - start
            got = logits(quantised, spec, evaluation)
            m = measure(got, reference, evaluation.labels)
            top1 = "-" if m.top1 is None else f"{100 * m.top1:.2f} %"
            print(
                f"| {name} | {method} | {m.rms_error:.4f} | {1 - m.cosine:.1e} | "
                f"{100 * m.agreement:.2f} % | {top1} | {seconds:.1f} |",
                flush=True,
            )
            numbers = {"rms_error": m.rms_error, "cosine": m.cosine, "agreement": m.agreement}
            rows.append({"model": name, "method": method, **numbers, "top1": m.top1})
    OUT.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
