"""Stages of a merged precision: the search of a schedule, the merged graphs, what they change."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from vit_edge.export.metric import Metric
from vit_edge.export.precision import Budget, Graphs
from vit_edge.export.progress import Update, stretch
from vit_edge.export.stages import LoweredGraph, MakeGraphs
from vit_edge.runtime.manifest import Accuracy
from vit_edge.runtime.outputs import OutputSpec, compare
from vit_edge.runtime.schema import decode, encode
from vit_edge.runtime.tools.images import ImageSet

from .blocks import CannotMergeError, find_structure
from .result import Merging
from .rewrite import merge_tokens
from .schedule import Schedule, resolve
from .search import search_schedules

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
