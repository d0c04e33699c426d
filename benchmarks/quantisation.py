"""Our INT8 beside other quantisers' on ViTs, with and without outliers.

    python -m benchmarks.quantisation [--models vit_digits characters ...] [--parts contest ...]
        [--focus FILE --images DATA ...] [--markdown docs/quantisation.md]

Every quantiser gets the same fp32 graph and the same 128 calibration images and is judged in ONNX
Runtime by the same evaluation images; each runs in a process and, where it is not ours, in an
environment of its own, made on first use (about 4 GB). Models: `vit_digits`; a ViT for rendered
characters; the same with massive activations trained into its residual stream; each also with
outliers injected that change nothing in fp32; with `--focus` also the embedding of DINOv2 ViT-S/14
(see `benchmarks.real_model`) behind a linear probe, on each labelled data set of `--images`, with
96 calibration images. Two more parts: how far twenty small calibration sets spread, and the cost
of a ViT-B/16.

Prints tables and writes `benchmarks/results/quantisation.json`; `--markdown` puts the best settings
into a document. Takes about two hours on 2 cores, a third of it training; 20 minutes more for each
data set. Results are kept under `build/benchmarks/`: an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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

from . import contest_rows, real_subject, subsets
from .contest import OURS, quantised
from .contest_tables import best_settings
from .documents import put_into
from .subjects import NAMES

CACHE = Path("build/benchmarks")
OUT = Path("benchmarks/results/quantisation.json")
LARGE, LARGE_IMAGES = "vit_base_patch16_224", 128

PARTS: dict[str, Callable[[str, Path], list[dict[str, Any]]]] = {
    "contest": contest_rows.rows,
    "subsets": subsets.rows,
}
"""Parts of the report: functions from a model's name to rows."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="*", choices=NAMES, default=NAMES)
    choices = (*PARTS, "large")
    parser.add_argument("--parts", nargs="+", choices=choices, default=choices)
    parser.add_argument("--focus", type=Path, metavar="FILE", help="vit_s_focus.onnx")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATA",
        help="labelled images for it: class folders or .npz files, 1,000 at least in each",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a document for the table")
    return parser.parse_args()


def main() -> None:
    options = parse()
    CACHE.mkdir(parents=True, exist_ok=True)
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    for part in options.parts:
        if part == "large":
            report[part] = large_rows(CACHE)
            write(report)
        else:
            for name in options.models:
                add(report, part, name, PARTS[part](name, CACHE))
        if part == "contest" and options.focus is not None:
            for data in options.images:
                asked = real_subject.real_subject(options.focus, data, CACHE)
                count = real_subject.CALIBRATION_IMAGES
                add(report, part, asked.name, contest_rows.compare(asked, count, CACHE))
    if options.markdown is not None:
        put_into(options.markdown, "contest", best_settings(report["contest"]))


def add(report: dict[str, Any], part: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the report's rows of this model, and writes it."""
    others = [row for row in report.get(part, []) if row["model"] != name]
    report[part] = sorted(others + rows, key=lambda row: _place(row["model"]))
    write(report)


def _place(name: str) -> tuple[int, str]:
    return (NAMES.index(name) if name in NAMES else len(NAMES), name)


def large_rows(cache: Path) -> list[dict[str, Any]]:
    """Measures our quantiser on a ViT-B/16 with random weights: seconds and peak memory."""
    model, images = cache / f"{LARGE}.onnx", cache / f"{LARGE}-{LARGE_IMAGES}.npy"
    variant = find_variant(LARGE)
    torch.manual_seed(0)
    vit = VisionTransformer.from_config(variant.config).eval()
    graph = export_onnx(vit, variant.preprocess, "logits")
    optimise(graph)
    save_onnx(graph, model)
    del vit, graph
    np.save(images, next(samples("calibration", variant.preprocess).batches(LARGE_IMAGES)))
    entry = quantised(OURS, model, images, cache)
    cost = f"{entry.seconds:.0f} s, {entry.peak_mib:.0f} MiB"
    print(f"{LARGE}, {LARGE_IMAGES} images: {cost}", flush=True)
    return [{"model": LARGE, "seconds": entry.seconds, "peak_mib": entry.peak_mib}]


def write(report: dict[str, Any]) -> None:
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
