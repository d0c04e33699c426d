"""Stages of a merged precision: the search of a schedule, the merged graphs, and their comparison.

The number of tokens that each block merges is searched on the calibration images: the errors caused
by merging in one block alone give schedules of growing strength, and the strongest whose outputs
meet the budget is chosen. The evaluation images, which judge the result, are not used for it.
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
"""Shares of the tokens that are merged in one block alone to measure the error."""
_MULTIPLICATIONS, _FEWEST, _MOST = 2e12, 4, 32
"""Multiplications that this measurement may take, and its least and greatest number of images."""
_MOST_SAVED = 0.8
"""Largest share of the work that is saved; beyond it little of any image is left."""
_PROOFS = 5
"""Most schedules to prove."""
Outputs = NDArray[np.float32]
Holds = Callable[[Outputs], bool]
"""Returns True if the outputs of all images meet the budget."""


def measure_errors(
    model: ir.Model, structure: Structure, work: WorkModel, images: ImageSet, update: Update
) -> list[list[tuple[int, float]]]:
    """Measures the mean squared change of the outputs if tokens are merged in one block alone.

    Args:
        model: The graph that merges nothing.
        structure: Its blocks.
        work: Its multiplications.
        images: Images, of which the first ones are used.
        update: Called with graphs done and graphs in all.

    Returns:
        For each block pairs of the number of tokens merged and that error, made not to fall.
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
    """Returns the schedules that are worth a proof, the strongest first; none if the budget allows
    no merging.

    Args:
        model: The graph that merges nothing.
        exact: The same in fp32: in a lowered graph any change also changes the rounding, which
            would hide the effect of merging.
        outputs: Their outputs.
        images: The calibration images.
        holds: Returns True if the outputs of all these images meet the budget.
        update: Called with graphs done and graphs in all.

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
    """Numbers of the schedules to prove: each three quarters of the one before it, at most five."""
    numbers = list[int]()
    while number and len(numbers) < _PROOFS:
        numbers.append(number)
        number = number * 3 // 4
    return numbers


TRAINED, RANDOM = "trained", "random"
MARGIN = 2.0
"""Share of classes that may change on labelled calibration images, relative to the larger of what
`min_agreement` and `max_drop` allow.
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
        graph: Its graph, or the fp32 one if that would have to be measured as a simulation.
        fp32: The optimised graph, with whose outputs those of merged graphs are compared.
        outputs: Kinds and scales of the outputs.
        images: The calibration images.
        folders: Class folders, and the model's index of each.
        budget: The budget that the outputs must meet.
        weights: `TRAINED`, or `RANDOM`, whose classes mean nothing.
        metric: The user's own measure.
        max_drop: How far that measure may fall.
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
        """Returns False if too many classes change for a drop within the budget to be credible: on
        few images as many may become right as wrong by chance.
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
    """The model's class of each image; None if it is not known. For outputs that do not classify,
    as embeddings, the images' own labels.
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
    """Compares the outputs of a merged graph with those of the graph that merges nothing."""

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
    """Returns the schedule that the user gave, for this graph. Raises CannotMergeError."""
    return resolve(asked, find_structure(ir.load(graph).graph))
