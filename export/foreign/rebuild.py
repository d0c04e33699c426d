"""From a foreign graph to the one that our own exporter would write, and the proof that it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from vit_edge.export.passes import PassReport, optimise
from vit_edge.export.quantise.sites import quantisable
from vit_edge.export.reference import require_finite
from vit_edge.runtime.errors import InputError, first_line
from vit_edge.runtime.manifest import LOGITS
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.preprocessing import normalise

from ..progress import Update
from .attention import WriteAttention
from .batch import thaw
from .batch_first import PUT_BATCH_FIRST
from .freeze import freeze
from .gelu import FuseGelu
from .layer_norm import FuseLayerNorm
from .linears import UnfoldLinears
from .no_ops import RemoveNoOps
from .raw_pixels import take_raw_pixels
from .read import require_no_branches
from .scopes import FindModules, NameWeights
from .session import Runner
from .version import convert

FOREIGN_PASSES: dict[str, ir.passes.PassBase] = {
    "find modules": FindModules(),
    "remove no-ops": RemoveNoOps(),
    "merge duplicates": common.CommonSubexpressionEliminationPass(),
    "unfold Linears": UnfoldLinears(),
    "fuse LayerNorm": ir.passes.Sequential(FuseLayerNorm(), common.RemoveUnusedNodesPass()),
    "fuse GELU": ir.passes.Sequential(FuseGelu(), common.RemoveUnusedNodesPass()),
    "write attention": ir.passes.Sequential(WriteAttention(), common.RemoveUnusedNodesPass()),
    "put the batch first": PUT_BATCH_FIRST,
    "name weights": NameWeights(),
}
"""On a frozen graph of opset 20, in order. Each is exact and leaves alone what it does not know."""

MAX_ERROR = 1e-4
"""Of the logits' range: ten times what rounding does in the deepest models, and a tenth of fp32's
budget.
"""
_BATCHES = (1, 3)
_SHARED = 16
"""Equal constants up to this many elements, the shapes among them, are kept once."""


def rebuild(
    model: ir.Model, preprocess: Preprocess, output: str = LOGITS
) -> tuple[PassReport, ...]:
    """Rewrites what `source.prepare` read, in place: uint8 images in, any batch, plain operators.

    Raises:
        InputError: if it cannot be brought into that form.
    """
    try:
        return _rebuild(model, preprocess, output)
    except InputError:
        raise
    except Exception as error:  # a valid file may hold what neither we nor the libraries expect
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"the graph cannot be rewritten ({reason}): export the model again with a plain "
            "exporter, as torch.onnx.export"
        ) from error


def _rebuild(model: ir.Model, preprocess: Preprocess, output: str) -> tuple[PassReport, ...]:
    before = model.graph.num_nodes()
    freeze(model)
    require_no_branches(model)
    convert(model)
    freeze(model)
    reports = [PassReport("freeze shapes, convert opset", before, model.graph.num_nodes())]
    reports += optimise(model, FOREIGN_PASSES)
    take_raw_pixels(model, preprocess)
    model.graph.outputs[0].name = output
    thaw(model)
    common.DeduplicateInitializersPass(size_limit=_SHARED)(model)
    return tuple(reports)


def require_vit(model: ir.Model) -> None:
    """Raises InputError for a graph with nothing to quantise: INT8 would mean nothing."""
    if not quantisable(model.graph):
        raise InputError("the file has no Linears on tokens: a ViT-like model is wanted")


def require_same(original: ir.Model, rebuilt: ir.Model, preprocess: Preprocess) -> float:
    """Compares the two on random images, the original one image at a time; returns the error
    relative to the range of the logits.

    Raises:
        InputError: if it is over `MAX_ERROR`.
    """
    rng, worst = np.random.default_rng(0), 0.0
    run, expected_of = Runner(rebuilt), Runner(original)
    for batch in _BATCHES:
        images = rng.integers(0, 256, (batch, *preprocess.shape), dtype=np.uint8)
        expected = run_original(expected_of, original, images, preprocess)
        (logits,) = run(images).values()
        if logits.shape != expected.shape:
            raise InputError(f"{batch} images give {logits.shape}: export with a dynamic batch")
        scale = max(float(np.ptp(expected)), 1e-30)
        worst = max(worst, float(np.abs(logits - expected).max()) / scale)
    if not worst <= MAX_ERROR:
        raise InputError(
            f"the graph cannot be rewritten without changing its logits (by {worst:.1e} of their "
            "range): export the model again with a dynamic batch and a plain exporter"
        )
    return worst


def run_original(
    run: Runner, original: ir.Model, images: np.ndarray, preprocess: Preprocess
) -> np.ndarray:
    """float32 `[N, classes]` of the file as its users run it, one image at a time."""
    raw = original.graph.inputs[0].dtype == ir.DataType.UINT8
    parts = []
    for image in images:
        pixels = image[None] if raw else normalise(image[None], preprocess).numpy()
        (logits,) = run(pixels).values()
        parts.append(logits)
    return np.concatenate(parts).astype(np.float32)


def compute_foreign_reference(
    original: ir.Model, preprocess: Preprocess, images: ImageSet, update: Update
) -> np.ndarray:
    """fp32 logits `[N, classes]` that everything is measured against.

    Raises:
        InputError: if they are not finite.
    """
    run, parts = Runner(original), list[np.ndarray]()
    for image in images.batches(1):
        parts.append(run_original(run, original, image, preprocess))
        update(len(parts), len(images))
    return require_finite(np.concatenate(parts), "the original file's")
