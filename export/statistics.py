"""Reference statistics, which let a device detect drift: of the evaluation images, which the model
has not been trained on, and of PyTorch's outputs for them. All precisions share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_edge.runtime.manifest import STATISTICS, EngineSpec, ReferenceStatistics
from vit_edge.runtime.outputs import unpack
from vit_edge.runtime.tools.health.statistics import (
    MOST_IMAGES,
    encode_statistics,
    measure,
    statistic_names,
)

from .baseline import SavedReference
from .cache import Stage
from .progress import Update

BATCH = 64


@dataclass(frozen=True)
class SavedStatistics:
    """The file of the reference statistics, and what the manifest says of it."""

    file: Path
    entry: ReferenceStatistics


@dataclass(frozen=True)
class MeasureStatistics(Stage[SavedStatistics]):
    """Measures the reference statistics of at most `MOST_IMAGES` evaluation images, chosen at
    random.
    """

    reference: SavedReference
    spec: EngineSpec
    seed: int
    title_of = "reference statistics"

    def run(self, folder: Path, update: Update) -> None:
        reference, images = self.reference.load(), self.reference.images.value
        order = np.random.default_rng(self.seed).permutation(len(images))
        chosen = np.sort(order[:MOST_IMAGES])
        values, parts = reference.values[chosen], list[np.ndarray]()
        for frames in images.subset(chosen.tolist()).batches(BATCH):
            done = sum(map(len, parts))
            outputs = unpack(values[done : done + len(frames)], self.spec.outputs)
            parts.append(measure(frames, outputs, self.spec))
            update(done + len(frames), len(chosen))
        (folder / STATISTICS).write_bytes(encode_statistics(np.concatenate(parts)))

    def load(self, folder: Path) -> SavedStatistics:
        images = self.reference.images.value
        count = min(len(images), MOST_IMAGES)
        names = statistic_names(self.spec)
        entry = ReferenceStatistics(STATISTICS, count, images.source, names)
        return SavedStatistics(folder / STATISTICS, entry)
