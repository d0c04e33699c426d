"""Stages of a merged precision: the search of a schedule, the merged graphs, what they change.

How many tokens each block may merge is searched on the images of calibration: the error that
merging in one block alone makes gives schedules of growing strength, of which the strongest is
taken whose outputs hold the budget. The evaluation images, which judge it, are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.accuracy import Reference, assess, find_problem
from vit_edge.export.baseline import SavedReference
from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.doors.source import Images
from vit_edge.export.measure import measure_outputs, predict
from vit_edge.export.outputs import join_outputs
from vit_edge.export.precision import Budget, Graphs
from vit_edge.export.progress import Update, stretch
from vit_edge.export.stages import LoweredGraph, MakeGraphs
from vit_edge.export.user_code import Metric
from vit_edge.runtime.manifest import Accuracy
from vit_edge.runtime.outputs import OutputSpec, compare
from vit_edge.runtime.schema import decode, encode
from vit_edge.runtime.tools.images import ImageSet

from .blocks import CannotMergeError, Structure, find_structure
from .matching import Sides
from .rewrite import merge_tokens
from .schedule import Merging, Schedule, WorkModel, resolve, stronger, work_model

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


TRAINED, RANDOM = "trained", "random"
MARGIN = 2.0
"""Classes that may change on the calibration images, relative to those that a budget allows where
there are no labels.
"""


@dataclass(frozen=True)
class Candidates:
    """Schedules to prove, the strongest first, or the reason why there are none."""

    schedules: tuple[Schedule, ...]
    reason: str = ""


@dataclass(frozen=True)
class SearchMerging(Stage[Candidates]):
    """Searches schedules on the calibration images.

    Attributes:
        base: The precision that is merged.
        graph: Its graph, or one that computes the same and is measured sooner.
        fp32: The optimised graph, which the outputs are compared with.
        outputs: Their kinds and scales.
        images: Of calibration.
        folders: Class folders, and the model's index of each.
        budget: What the outputs have to hold.
        weights: `TRAINED`, or `RANDOM`, whose classes mean nothing.
        metric: The user's own measure.
        max_drop: Its fall that is allowed.
    """

    base: str
    graph: Path
    fp32: Path
    outputs: tuple[OutputSpec, ...]
    images: Images
    folders: tuple[tuple[str, int], ...]
    budget: Budget
    weights: str
    metric: Hashed[Metric] | None
    max_drop: float | None
    title_of = "{base} search for tokens to merge"

    def run(self, folder: Path, update: Update) -> None:
        images = self.images.value
        metric = None if self.metric is None else self.metric.value
        exact = ir.load(self.fp32)
        expected = predict(exact, images)
        labels = _labels(images, self.folders, self.outputs[0])
        reference = Reference(expected, self.outputs, labels, np.arange(len(images)))

        def holds(values: NDArray[np.float32]) -> bool:
            accuracy = assess(values, reference, "", metric)
            random = self.weights == RANDOM
            problem = find_problem(accuracy, self.outputs, self.budget, random, self.max_drop)
            return problem is None and self._agrees(accuracy[self.outputs[0].name])

        try:
            model = ir.load(self.graph)
            schedules = search_schedules(model, exact, self.outputs, images, holds, update)
            reason = "" if schedules else "the budget allows nothing on the calibration images"
        except CannotMergeError as error:
            schedules, reason = [], str(error)
        (folder / "schedules.json").write_text(json.dumps([schedules, reason]))

    def _agrees(self, accuracy: Accuracy) -> bool:
        """False where more of the classes change than a budget on top-1 can come from: of few
        images as many may be won as lost by chance.
        """
        budget, agreement = self.budget, accuracy.agreement
        judged = self.outputs[0].classifies and self.weights == TRAINED
        if not judged or accuracy.drop is None or agreement is None:
            return True
        least = budget.min_agreement or 0.0
        return 1 - agreement <= MARGIN * max(1 - least, (budget.max_drop or 0.0) / 100)

    def load(self, folder: Path) -> Candidates:
        schedules, reason = json.loads((folder / "schedules.json").read_text())
        return Candidates(tuple(map(tuple, schedules)), reason)


def _labels(
    images: ImageSet, folders: tuple[tuple[str, int], ...], output: OutputSpec
) -> NDArray[np.int64] | None:
    """The model's class of each image; None where that is not known. An embedding's are whatever
    tells images apart.
    """
    if images.labels is None or images.class_names is None or not output.classifies:
        return images.labels
    known = dict(folders)
    if not known.keys() >= set(images.class_names):
        return None
    return np.array([known[name] for name in images.class_names], np.int64)[images.labels]


@dataclass(frozen=True)
class Merge(MakeGraphs):
    """Merges tokens in the graphs of another precision."""

    graphs: Mapping[str, LoweredGraph]
    schedule: Schedule

    @property
    def title(self) -> str:
        return f"{self.name} graph, {sum(self.schedule)} tokens merged"

    def lower(self) -> Graphs:
        files = {graph.file for graph in self.graphs.values()}
        merged = {file: merge_tokens(ir.load(file), self.schedule) for file in files}
        return {kind: merged[graph.file] for kind, graph in self.graphs.items()}


@dataclass(frozen=True)
class CompareWithBase(Stage[Merging]):
    """Compares the outputs of a merged graph with those of the one that merges nothing."""

    name: str
    base: str
    merged: LoweredGraph
    graph: LoweredGraph
    schedule: Schedule
    reference: SavedReference
    title_of = "{name} agreement with {base}"

    def run(self, folder: Path, update: Update) -> None:
        images, outputs = self.reference.images.value, self.reference.outputs()
        both = []
        for index, graph in enumerate((self.merged, self.graph)):
            part = stretch(update, index, 2)
            both.append(measure_outputs(graph.file, graph.how, images, part).values)
        metrics = compare(both[0], both[1], outputs)[outputs[0].name]
        structure = find_structure(ir.load(self.graph.file).graph)
        before, after = (sum(p.total for p in g.work.parts) for g in (self.graph, self.merged))
        result = Merging(
            self.base,
            self.schedule,
            structure.tokens - structure.special,
            1 - after / max(before, 1),
            len(images),
            metrics.agreement,
            metrics.rms_error,
        )
        (folder / "merging.json").write_text(encode(result))

    def load(self, folder: Path) -> Merging:
        return decode(Merging, json.loads((folder / "merging.json").read_text()))


def given_schedule(asked: int | Schedule, graph: Path) -> Schedule:
    """The schedule that the user gave, for this graph. Raises CannotMergeError."""
    return resolve(asked, find_structure(ir.load(graph).graph))
