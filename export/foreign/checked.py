"""Applies passes and looks at what they did: one that changes the outputs is left out, and said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.outputs.scale import varied_images
from vit_edge.export.passes import PassReport, optimise
from vit_edge.runtime.errors import InputError, first_line

from .session import Runner

MAX_ERROR = 1e-4
"""Of an output's range: ten times what rounding does in the deepest models, and a tenth of fp32's
budget.
"""
_COARSE, _CENTRE, _SPREAD = 2, 115.0, 60.0
"""The first of the varied images that is coarse noise; about how pixels are normalised."""
_TINY = 1e-30


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
    except Exception:  # a valid file may hold what no pass expects: found below which one it is
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
        return varied_images((sizes[0], sizes[1], sizes[2]), 0)[_COARSE : _COARSE + batch]
    frames = varied_images((sizes[1], sizes[2], sizes[0]), 0)[_COARSE : _COARSE + batch]
    return ((frames.transpose(0, 3, 1, 2) - _CENTRE) / _SPREAD).astype(np.float32)


def _run(model: ir.Model, images: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    return list(Runner(model)(images).values())


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
