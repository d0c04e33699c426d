"""Rows of activations, kept for the algorithms that need more than a range.

A row is what one token gives a Linear: float32 `[K]`. Of every image the same number of tokens is
kept, the first (the class token) and others drawn by the image's place in the set, so that batch
size changes nothing. On disk, a file for each site; reading maps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .observers import require_finite

Rows = NDArray[np.float32]

MAX_ROWS = 2048
"""For each site."""
_INDEX = "samples.json"


@dataclass(frozen=True)
class SiteSamples:
    """What was seen of a Linear's input.

    Attributes:
        rows: float32 `[rows, K]`.
        channel_amax: float32 `[K]`, the largest magnitude of each channel over all tokens.
    """

    rows: Rows
    channel_amax: Rows


Samples = Mapping[str, SiteSamples]


class SiteSampler:
    """Gathers the samples of one site; an `Observer` whose range is the largest magnitude."""

    def __init__(self, images: int) -> None:
        self._tokens = max(1, MAX_ROWS // max(1, images))
        self._seen = 0
        self._kept: list[Rows] = []
        self._amax: Rows | None = None

    def update(self, values: Rows) -> None:
        """`values` float32 `[images, ..., K]`, the next images of the set.

        Raises:
            ValueError: if they are not finite.
        """
        tokens = values.reshape(len(values), -1, values.shape[-1])
        largest = np.abs(tokens).max(axis=(0, 1))
        require_finite(float(largest.max()))
        self._amax = largest if self._amax is None else np.maximum(self._amax, largest)
        for number, rows in enumerate(tokens[: max(0, MAX_ROWS - self._seen)], self._seen):
            self._kept.append(rows[_choose(len(rows), self._tokens, number)])
        self._seen += len(tokens)

    def amax(self) -> float:
        assert self._amax is not None
        return float(self._amax.max())

    def result(self) -> SiteSamples:
        assert self._amax is not None
        return SiteSamples(np.concatenate(self._kept), self._amax)


def _choose(tokens: int, wanted: int, image: int) -> NDArray[np.int64]:
    """The first token and others; all, if there are no more than are wanted."""
    if tokens <= wanted:
        return np.arange(tokens)
    others = np.random.default_rng(image).permutation(tokens - 1)[: wanted - 1] + 1
    return np.sort(np.concatenate([np.zeros(1, np.int64), others]))


def save_samples(folder: Path, samples: Samples) -> None:
    """Writes `samples.json` and two arrays for each site."""
    for number, site in enumerate(samples.values()):
        np.save(folder / f"{number}.rows.npy", site.rows)
        np.save(folder / f"{number}.amax.npy", site.channel_amax)
    (folder / _INDEX).write_text(json.dumps(list(samples)))


def load_samples(folder: Path) -> Samples:
    """What `save_samples` wrote; rows are mapped, not read."""
    names: Sequence[str] = json.loads((folder / _INDEX).read_text())
    return {
        name: SiteSamples(
            np.load(folder / f"{number}.rows.npy", mmap_mode="r"),
            np.load(folder / f"{number}.amax.npy"),
        )
        for number, name in enumerate(names)
    }
