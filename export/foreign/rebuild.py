"""From a foreign graph to the one that our own exporter would write, and the proof that it is.

A pass that fails on a graph, or changes its outputs, is left out, and its report says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.doors.source import MakeGraph, MakeReference
from vit_edge.export.outputs import varied_images
from vit_edge.export.passes import PassReport, optimise
from vit_edge.export.progress import Update
from vit_edge.export.quantise.convolutions import find_convolution_layers
from vit_edge.export.quantise.grid import INT8_GRID, Scheme
from vit_edge.export.quantise.linear_layers import quantisable
from vit_edge.export.reference import Oracle
from vit_edge.runtime.errors import InputError, first_line
from vit_edge.runtime.outputs import pack
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.preprocessing import normalise

from .attention import WriteAttention
from .batch import PUT_BATCH_FIRST, make_batch_dynamic
from .evaluate import OnnxRunner
from .fusions import FuseGelu, FuseLayerNorm
from .image_input import take_uint8_images
from .linears import FindModules, NameWeights, UnfoldLinears
from .operators import WriteCol2ImAsConvolution, WriteEinsumAsMatMul, WriteScatterAsConcat
from .read import require_no_branches
from .static_shapes import RemoveNoOps, fold_static_shapes
from .version import convert

MAX_ERROR = 1e-4
"""Of an output's range: ten times what rounding does in the deepest models, and a tenth of fp32's
budget.
"""
_CENTRE, _SPREAD = 115.0, 60.0
"""Of pixels, about as models normalise them."""


def optimise_checked(
    model: ir.Model, passes: Mapping[str, ir.passes.PassBase]
) -> tuple[PassReport, ...]:
    """Applies every pass to `model` in place, as `optimise` does; those that fail or change what it
    computes are left out, and their reports say why.

    Raises:
        InputError: if ONNX Runtime cannot run the model as it is.
    """
    before, images = model.clone(), _draw(model)
    expected = _run(before, images)
    try:
        reports = optimise(model, passes)
        if _error(model, images, expected) <= MAX_ERROR:
            return reports
    except Exception:  # a valid file may hold what no pass expects; which one fails is seen below
        pass
    model.graph = before.graph
    return tuple(_apply(model, name, change, images, expected) for name, change in passes.items())


def _apply(
    model: ir.Model,
    name: str,
    change: ir.passes.PassBase,
    images: NDArray[np.generic],
    expected: list[NDArray[np.generic]],
) -> PassReport:
    """Applies one pass, or leaves it out."""
    before, nodes = model.clone(), model.graph.num_nodes()
    try:
        (report,) = optimise(model, {name: change})
        error = _error(model, images, expected)
        reason = "" if error <= MAX_ERROR else f"it changes the outputs by {error:.1e}"
    except Exception as failure:  # as above
        report, reason = PassReport(name, nodes, nodes), first_line(failure)
    if not reason:
        return report
    model.graph = before.graph
    return replace(report, nodes_after=nodes, left_out=reason)


def _draw(model: ir.Model) -> NDArray[np.generic]:
    """Noise of coarse grain, as the model takes images; two where their number is open."""
    image = model.graph.inputs[0]
    batch, *sizes = [size if isinstance(size, int) else 2 for size in image.shape or ()]
    if image.dtype == ir.DataType.UINT8:
        return varied_images((sizes[0], sizes[1], sizes[2]), 0)[
            _FIRST_COARSE : _FIRST_COARSE + batch
        ]
    frames = varied_images((sizes[1], sizes[2], sizes[0]), 0)[_FIRST_COARSE : _FIRST_COARSE + batch]
    return ((frames.transpose(0, 3, 1, 2) - _CENTRE) / _SPREAD).astype(np.float32)


def _run(model: ir.Model, images: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    return list(OnnxRunner(model)(images).values())


def _error(
    model: ir.Model, images: NDArray[np.generic], expected: list[NDArray[np.generic]]
) -> float:
    """The largest difference of an output relative to its range."""
    worst = 0.0
    for one, other in zip(_run(model, images), expected, strict=True):
        ours, theirs = one.astype(np.float64), other.astype(np.float64)
        if ours.shape != theirs.shape:
            raise InputError(f"an output becomes {list(ours.shape)}")
        scale = max(float(np.ptp(theirs)), _TINY)
        worst = max(worst, float(np.abs(ours - theirs).max()) / scale)
    return worst if np.isfinite(worst) else float("inf")


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

"""Of an output's range: ten times what rounding does in the deepest models, and a tenth of fp32's
budget.
"""
_ROOM, _MOST_EXPLAINED, _LAST_BIT = 4.0, 5e-3, 2.0**-23
"""Of a model that turns the rounding of its pixels into more than that, so many times as much is
allowed.
"""
_BATCHES = (1, 3)
"""Sizes of the batches that are compared."""
_FIRST_COARSE = 2
"""The first of the varied images that is noise of coarse grain, as images are: white noise is
nothing that a model was made for.
"""
_LEAST_RANGE = 0.01
"""Part of the largest value that counts as the least range."""
_TINY = 1e-30
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
    if not quantisable(model.graph) and not find_convolution_layers(model.graph, _INT8):
        raise InputError(
            "the file has no Linears on tokens and no convolutions beyond the first: a vision "
            "transformer or a hybrid is expected"
        )


def require_same(original: ir.Model, rebuilt: ir.Model, preprocess: Preprocess) -> float:
    """Compares the two on noise of coarse grain, the original one at a time; returns the largest
    error of an output relative to its range.

    Raises:
        InputError: if it is over `MAX_ERROR`.
    """
    worst, varied = 0.0, varied_images(preprocess.shape, 0)[_FIRST_COARSE:]
    run, expected_of = OnnxRunner(rebuilt), OnnxRunner(original)
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


def _explained(run: OnnxRunner, original: ir.Model, preprocess: Preprocess) -> float:
    """The error that rounding explains: what pixels shifted by the last bit do to the outputs of
    the original, relative to their range; at most `_MOST_EXPLAINED`.
    """
    if original.graph.inputs[0].dtype == ir.DataType.UINT8:
        return 0.0
    rng = np.random.default_rng(1)
    images = varied_images(preprocess.shape, 0)[_FIRST_COARSE : _FIRST_COARSE + 1]
    pixels = normalise(images, preprocess).numpy()
    shifted = pixels * (1 + _LAST_BIT * rng.choice((-1, 1), pixels.shape)).astype(np.float32)
    worst = 0.0
    for one, other in zip(run(pixels).values(), run(shifted).values(), strict=True):
        ours, theirs = one.astype(np.float64), other.astype(np.float64)
        worst = max(worst, float(np.abs(ours - theirs).max()) / max(float(np.ptp(ours)), _TINY))
    return min(_ROOM * worst, _MOST_EXPLAINED)


def run_original(
    run: OnnxRunner, original: ir.Model, images: np.ndarray, preprocess: Preprocess
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
    run = OnnxRunner(original)
    return lambda images: pack(run_original(run, original, images, preprocess))


class OnnxOriginal(Protocol):
    """An ONNX file that is read once more when its stage runs."""

    def read_again(self) -> ir.Model:
        """Returns the graph. Raises InputError if the file was changed since it was found."""


@dataclass(frozen=True)
class CopyOnnxFile(Stage[Path]):
    """Reads the user's ONNX file, which stands where the weights do otherwise."""

    source: Hashed[OnnxOriginal]
    title_of = "ONNX file"

    def run(self, folder: Path, update: Update) -> None:
        save_onnx(self.source.value.read_again(), folder / "model.onnx")

    def load(self, folder: Path) -> Path:
        return folder / "model.onnx"


@dataclass(frozen=True)
class RebuildGraph(MakeGraph):
    """Rewrites an ONNX file to the graph that our own exporter would write, and optimises it."""

    def make(self) -> tuple[ir.Model, Sequence[PassReport]]:
        model, before = ir.load(self.original), ir.load(self.original)
        names = [output.name for output in self.outputs]
        passes = (*rebuild(model, self.preprocess, names), *optimise(model))
        require_vit(model)
        require_same(before, model, self.preprocess)
        return model, passes


@dataclass(frozen=True)
class OnnxReference(MakeReference):
    """Runs the user's ONNX file, as it came, in ONNX Runtime."""

    title_of = "ONNX reference"

    def oracle(self) -> Oracle:
        return onnx_oracle(ir.load(self.original), self.preprocess)
