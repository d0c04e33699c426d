"""From a foreign graph to the one that our own exporter would write, and the proof that it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from vit_edge.export.outputs.scale import varied_images
from vit_edge.export.passes import PassReport
from vit_edge.export.quantise.convolutions import find_convolution_sites
from vit_edge.export.quantise.grid import INT8_GRID, Scheme
from vit_edge.export.quantise.sites import quantisable
from vit_edge.export.reference import Oracle
from vit_edge.runtime.errors import InputError, first_line
from vit_edge.runtime.outputs import pack
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.preprocessing import normalise

from .attention import WriteAttention
from .batch import make_batch_dynamic
from .batch_first import PUT_BATCH_FIRST
from .checked import optimise_checked
from .col2im import WriteCol2ImAsConvolution
from .einsum import WriteEinsumAsMatMul
from .gelu import FuseGelu
from .layer_norm import FuseLayerNorm
from .linears import UnfoldLinears
from .no_ops import RemoveNoOps
from .raw_pixels import take_uint8_images
from .read import require_no_branches
from .scatter import WriteScatterAsConcat
from .scopes import FindModules, NameWeights
from .session import Runner
from .static_shapes import fold_static_shapes
from .version import convert

FOREIGN_PASSES: dict[str, ir.passes.PassBase] = {
    "find modules": FindModules(),
    "remove no-ops": RemoveNoOps(),
    "write Einsum as MatMul": WriteEinsumAsMatMul(),
    "write assignments as Concat": WriteScatterAsConcat(),
    "write Col2Im as a convolution": WriteCol2ImAsConvolution(),
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
"""Of an output's range: ten times what rounding does in the deepest models, and a tenth of fp32's
budget.
"""
_ROOM, _MOST_EXPLAINED, _LAST_BIT = 4.0, 5e-3, 2.0**-23
"""Of a model that turns the rounding of its pixels into more than that, so many times as much is
allowed.
"""
_BATCHES, _COARSE = (1, 3), 2
"""Sizes of the batches that are compared; the first of the varied images that is noise of coarse
grain, as images are: white noise is nothing that a model was made for.
"""
_LEAST_RANGE, _TINY = 0.01, 1e-30
"""Part of the largest value that counts as the least range."""
_INT8 = Scheme(INT8_GRID, INT8_GRID)
_SHARED = 16
"""Equal constants up to this many elements, the shapes among them, are kept once."""


def rebuild(
    model: ir.Model, preprocess: Preprocess, names: Sequence[str] | None = None
) -> tuple[PassReport, ...]:
    """Rewrites what `source.prepare` read, in place: uint8 images in, any batch, plain operators,
    outputs of these names (None: those of the file).

    Raises:
        InputError: if it cannot be brought into that form.
    """
    try:
        kept = [str(value.name) for value in model.graph.outputs]
        return _rebuild(model, preprocess, kept if names is None else names)
    except InputError:
        raise
    except Exception as error:  # a valid file may hold what neither we nor the libraries expect
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"the graph cannot be rewritten ({reason}): export the model again with a plain "
            "exporter, as torch.onnx.export"
        ) from error


def _rebuild(
    model: ir.Model, preprocess: Preprocess, names: Sequence[str]
) -> tuple[PassReport, ...]:
    before = model.graph.num_nodes()
    fold_static_shapes(model)
    require_no_branches(model)
    convert(model)
    fold_static_shapes(model)
    reports = [PassReport("freeze shapes, convert opset", before, model.graph.num_nodes())]
    reports += optimise_checked(model, FOREIGN_PASSES)
    take_uint8_images(model, preprocess)
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name
    make_batch_dynamic(model)
    common.DeduplicateInitializersPass(size_limit=_SHARED)(model)
    return tuple(reports)


def require_vit(model: ir.Model) -> None:
    """Raises InputError for a graph with nothing to quantise: INT8 would mean nothing."""
    if not quantisable(model.graph) and not find_convolution_sites(model.graph, _INT8):
        raise InputError(
            "the file has no Linears on tokens and no convolutions beyond the first: a vision "
            "transformer or a hybrid is wanted"
        )


def require_same(original: ir.Model, rebuilt: ir.Model, preprocess: Preprocess) -> float:
    """Compares the two on noise of coarse grain, the original one at a time; returns the largest
    error of an output relative to its range.

    Raises:
        InputError: if it is over `MAX_ERROR`.
    """
    worst, varied = 0.0, varied_images(preprocess.shape, 0)[_COARSE:]
    run, expected_of = Runner(rebuilt), Runner(original)
    for batch in _BATCHES:
        images = varied[:batch]
        expected = run_original(expected_of, original, images, preprocess)
        for one, other in zip(run(images).values(), expected, strict=True):
            if one.shape != other.shape:
                raise InputError(f"{batch} images give {one.shape}: export with a dynamic batch")
            # Of an output that hardly depends on the images rounding would be compared.
            scale = max(float(np.ptp(other)), _LEAST_RANGE * float(np.abs(other).max()), _TINY)
            worst = max(worst, float(np.abs(one - other).max()) / scale)
    if not worst <= max(MAX_ERROR, _explained(expected_of, original, preprocess)):
        raise InputError(
            f"the graph cannot be rewritten without changing its outputs (by {worst:.1e} of their "
            "range): export the model again with a dynamic batch and a plain exporter"
        )
    return worst


def _explained(run: Runner, original: ir.Model, preprocess: Preprocess) -> float:
    """The error that rounding explains: what pixels shifted by the last bit do to the outputs of
    the original, relative to their range; at most `_MOST_EXPLAINED`.
    """
    if original.graph.inputs[0].dtype == ir.DataType.UINT8:
        return 0.0
    rng = np.random.default_rng(1)
    images = varied_images(preprocess.shape, 0)[_COARSE : _COARSE + 1]
    pixels = normalise(images, preprocess).numpy()
    shifted = pixels * (1 + _LAST_BIT * rng.choice((-1, 1), pixels.shape)).astype(np.float32)
    worst = 0.0
    for one, other in zip(run(pixels).values(), run(shifted).values(), strict=True):
        ours, theirs = one.astype(np.float64), other.astype(np.float64)
        worst = max(worst, float(np.abs(ours - theirs).max()) / max(float(np.ptp(ours)), _TINY))
    return min(_ROOM * worst, _MOST_EXPLAINED)


def run_original(
    run: Runner, original: ir.Model, images: np.ndarray, preprocess: Preprocess
) -> list[np.ndarray]:
    """The outputs float32 `[N, ...]` of the file as its users run it, one image at a time."""
    raw = original.graph.inputs[0].dtype == ir.DataType.UINT8
    parts = []
    for image in images:
        pixels = image[None] if raw else normalise(image[None], preprocess).numpy()
        parts.append(list(run(pixels).values()))
    return [np.concatenate(outputs).astype(np.float32) for outputs in zip(*parts, strict=True)]


def onnx_oracle(original: ir.Model, preprocess: Preprocess) -> Oracle:
    """The file as its users run it."""
    run = Runner(original)
    return lambda images: pack(run_original(run, original, images, preprocess))
