"""Samples of activations for the algorithms that need more than a range.

A row is one token's input of a Linear: float32 `[K]`. Every image adds the same number of tokens,
the first (the class token) and others drawn by the image's index in the set, so that batch size
changes nothing. On disk, each site has two files; reading maps the rows.
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
"""Limit for each site."""
_EXTREME = 5
"""One sampled token in so many has a greatest magnitude of its image: rare ones go furthest."""
_INDEX = "samples.json"


@dataclass(frozen=True)
class SiteSamples:
    """Samples of a Linear's input.

    Attributes:
        rows: float32 `[rows, K]`.
        channel_amax: float32 `[K]`, the largest magnitude of each channel over all tokens.
    """

    rows: Rows
    channel_amax: Rows


Samples = Mapping[str, SiteSamples]


class SiteSampler:
    """Collects the samples of one site; an `Observer` whose range is the largest magnitude."""

    def __init__(self, images: int) -> None:
        self._tokens = max(1, MAX_ROWS // max(1, images))
        self._images = 0
        self._samples: list[Rows] = []
        self._amax: Rows | None = None

    def update(self, values: Rows) -> None:
        """Adds `values`, float32 `[images, ..., K]`, of the next images of the set.

        Raises:
            ValueError: if they are not finite.
        """
        tokens = values.reshape(len(values), -1, values.shape[-1])
        largest = np.abs(tokens).max(axis=(0, 1))
        require_finite(float(largest.max()))
        self._amax = largest if self._amax is None else np.maximum(self._amax, largest)
        for index, rows in enumerate(tokens[: max(0, MAX_ROWS - self._images)], self._images):
            self._samples.append(rows[_choose(rows, self._tokens, index)])
        self._images += len(tokens)

    def amax(self) -> float:
        assert self._amax is not None
        return float(self._amax.max())

    def result(self) -> SiteSamples:
        assert self._amax is not None
        return SiteSamples(np.concatenate(self._samples), self._amax)


def _choose(rows: Rows, most: int, image: int) -> NDArray[np.int64]:
    """Chooses the first token, those with the greatest magnitudes and random others, at most `most`
    in all.
    """
    tokens = len(rows)
    if tokens <= most:
        return np.arange(tokens)
    magnitudes = np.abs(rows)
    typical = np.maximum(np.sqrt(np.square(magnitudes).mean(axis=0)), 1e-6)
    order = [np.argsort(-m.max(axis=1), kind="stable") for m in (magnitudes, magnitudes / typical)]
    extreme = np.stack(order, axis=1).reshape(-1)
    others = np.random.default_rng(image).permutation(tokens)
    ranked = np.concatenate([np.zeros(1, np.int64), extreme[: most // _EXTREME], others])
    first = np.sort(np.unique(ranked, return_index=True)[1])
    return np.sort(ranked[first][:most])


def save_samples(folder: Path, samples: Samples) -> None:
    """Writes `samples.json` and two arrays for each site."""
    for number, site in enumerate(samples.values()):
        np.save(folder / f"{number}.rows.npy", site.rows)
        np.save(folder / f"{number}.amax.npy", site.channel_amax)
    (folder / _INDEX).write_text(json.dumps(list(samples)))


def load_samples(folder: Path) -> Samples:
    """Reads samples that `save_samples` wrote; rows are mapped, not read."""
    names: Sequence[str] = json.loads((folder / _INDEX).read_text())
    return {
        name: SiteSamples(
            np.load(folder / f"{number}.rows.npy", mmap_mode="r"),
            np.load(folder / f"{number}.amax.npy"),
        )
        for number, name in enumerate(names)
    }
