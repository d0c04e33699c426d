"""What quantising a ViT-B/16 takes: random weights, 128 images, two threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.vit.datasets import samples
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .contest import OURS, quantised

NAME, IMAGES = "vit_base_patch16_224", 128


def rows(cache: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of our quantiser."""
    model, images = cache / f"{NAME}.onnx", cache / f"{NAME}-{IMAGES}.npy"
    variant = find_variant(NAME)
    torch.manual_seed(0)
    graph = export_onnx(
        VisionTransformer.from_config(variant.config).eval(), variant.preprocess, "logits"
    )
    optimise(graph)
    save_onnx(graph, model)
    del graph
    np.save(images, next(samples("calibration", variant.preprocess).batches(IMAGES)))
    entry = quantised(OURS, model, images, cache)
    print(f"{NAME}, {IMAGES} images: {entry.seconds:.0f} s, {entry.peak_mib:.0f} MiB", flush=True)
    return [{"model": NAME, "seconds": entry.seconds, "peak_mib": entry.peak_mib}]
