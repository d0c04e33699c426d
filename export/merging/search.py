"""Searches how many tokens each block may merge.

On the images of calibration: the error that merging in one block alone makes gives schedules of
growing strength, of which the strongest is taken whose outputs hold the budget. The evaluation
images, which judge it, are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.measure import predict
from vit_edge.export.outputs import join_outputs
from vit_edge.export.progress import Update
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.images import ImageSet

from .blocks import CannotMergeError, Structure, find_structure
from .matching import Sides
from .rewrite import merge_tokens
from .schedule import Schedule, WorkModel, stronger, work_model

_SHARES = (1 / 24, 1 / 8, 1 / 4)
"""Shares of the tokens that are merged in one block alone, to measure the error of that."""
_MULTIPLICATIONS, _FEWEST, _MOST = 2e12, 4, 32
"""Budget of that measurement, and the images that it takes at least and at most."""
_MOST_SAVED = 0.8
"""Share of the work; beyond it little is left of any image."""
_PROOFS = 5
"""Schedules that are proven at most."""
Outputs = NDArray[np.float32]
Holds = Callable[[Outputs], bool]
"""True if the outputs of all images hold the budget."""


def measure_errors(
    model: ir.Model, structure: Structure, work: WorkModel, images: ImageSet, update: Update
) -> list[list[tuple[int, float]]]:
    """For each block tokens merged there alone, and the mean square of the change of the outputs.

    Args:
        model: The graph that merges nothing.
        structure: Its blocks.
        work: Its multiplications.
        images: Some of which are looked at.
        update: Called with graphs done and in all.
    """
    most = Sides(structure.tokens, structure.special).most
    counts = sorted({min(most, max(1, int(share * structure.tokens))) for share in _SHARES})
    blocks = [i for i, block in enumerate(structure.blocks) if block.merges and most]
    runs = 1 + len(blocks) * len(counts)
    number = int(np.clip(_MULTIPLICATIONS / (work.total * runs), _FEWEST, _MOST))
    few = images.subset(range(min(number, len(images))))
    expected = predict(model, few)
    errors: list[list[tuple[int, float]]] = [[] for _ in structure.blocks]
    done = 0
    for index in blocks:
        worst = 0.0
        for count in counts:
            schedule = (0,) * index + (count,)
            changed = predict(merge_tokens(model, schedule), few)
            error = float(((changed - expected) ** 2).mean())
            worst = max(worst, error) if np.isfinite(error) else np.inf
            errors[index].append((count, worst))
            done += 1
            update(done, len(blocks) * len(counts))
    return errors


def search_schedules(
    model: ir.Model,
    exact: ir.Model,
    outputs: Sequence[OutputSpec],
    images: ImageSet,
    holds: Holds,
    update: Update,
) -> list[Schedule]:
    """The schedules that are worth a proof, the strongest first; none where the budget allows
    nothing.

    Args:
        model: The graph that merges nothing.
        exact: The same in fp32: where numbers are rounded, any change rounds them anew, and that
            would hide what merging does.
        outputs: What they give.
        images: Of calibration.
        holds: Judges the outputs of all of them.
        update: Called with graphs done and in all.

    Raises:
        CannotMergeError: if the model's tokens cannot be merged.
    """
    structure = find_structure(model.graph)
    work = work_model(model.graph, structure)
    joined = join_outputs(exact, outputs)
    errors = measure_errors(joined, find_structure(exact.graph), work, images, update)
    path = []
    for schedule in stronger(structure, work, errors):
        if work.saved(schedule) > _MOST_SAVED:
            break
        path.append(schedule)
    if not path:
        raise CannotMergeError(
            f"the steps would cost more than they save: an image has {structure.tokens} tokens and "
            f"{work.total / 1e6:.3g} million multiplications"
        )
    count = _strongest(path, lambda schedule: holds(predict(merge_tokens(model, schedule), images)))
    return [path[i - 1] for i in _back_from(count)]


def _strongest(path: Sequence[Schedule], good: Callable[[Schedule], bool]) -> int:
    """The number of the strongest schedule that is good, counted from 1; 0 if none is."""
    low, high = 0, len(path) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if good(path[middle - 1]):
            low = middle
        else:
            high = middle
    return low


def _back_from(number: int) -> list[int]:
    """Steps back from a schedule: each three quarters of the one before it, five at most."""
    numbers = list[int]()
    while number and len(numbers) < _PROOFS:
        numbers.append(number)
        number = number * 3 // 4
    return numbers
