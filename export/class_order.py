"""Finds another order of the classes that gives a better top-1 on the evaluation images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vit_edge.runtime.tools.classes import REMEDY
from vit_edge.runtime.tools.display import percent

LEAST_GAIN = 0.1
"""Smallest gain in top-1, 0 to 1, for which another order is reported."""
LEAST_IMAGES = 5
"""Images that each folder needs for an order that follows no known rule: fewer fit by chance."""
_SHOWN = 6

Pairs = Sequence[tuple[str, int]]
"""Folders and their class indices."""


def better_order(
    logits: NDArray[np.float32], labels: NDArray[np.int64], folders: Pairs
) -> str | None:
    """Describes another order of the classes that gives a much better top-1; None if there is
    none.

    Args:
        logits: `[N, classes]`.
        labels: int64 `[N]`, class indices.
        folders: Class folders and the class indices that were assigned to them.
    """
    indices = np.array([index for _, index in folders])
    if len(set(indices.tolist())) < len(folders) or len(folders) < 2:
        return None
    predicted, classes = logits.argmax(axis=1), logits.shape[1]
    # counts[f, c]: images of folder f that the model calls c
    rows = np.searchsorted(np.sort(indices), labels)
    counts = np.zeros((len(folders), classes), dtype=np.int64)
    np.add.at(counts, (np.argsort(indices)[rows], predicted), 1)
    now = _top1(counts, indices)
    best, words, order = now, "", indices
    for name, other in _orders([folder for folder, _ in folders], classes).items():
        if (top1 := _top1(counts, other)) > best + 1e-9:
            best, words, order = top1, name, other
    if counts.sum(axis=1).min() >= LEAST_IMAGES and best < now + LEAST_GAIN:
        _, other = linear_sum_assignment(-counts)
        if (top1 := _top1(counts, other)) > max(best, 2 * now, 0.5):
            best, words, order = top1, "if the folders were other classes", other
    if best < now + LEAST_GAIN or not _is_more_than_chance(now, best, len(labels)):
        return None
    moved = [f"{n} is {b}" for (n, a), b in zip(folders, order.tolist(), strict=True) if a != b]
    more = ", ..." if len(moved) > _SHOWN else ""
    return (
        f"the classes may be in another order: top-1 of the reference is {percent(now)}, and would "
        f"be {percent(best)} {words} ({', '.join(moved[:_SHOWN])}{more}): {REMEDY}"
    )


def _orders(folders: list[str], classes: int) -> dict[str, NDArray[np.int64]]:
    """Returns the orders that training code uses and that fit here, by their descriptions."""
    keys: dict[str, Callable[[str], Any]] = {
        "in the order of the folders' names as text, as torchvision has them": str,
        "in the natural order of the folders' names, as timm has them": _natural,
        "in the order of the folders' names, whatever case": str.casefold,
    }
    orders: dict[str, NDArray[np.int64]] = {}
    if len(folders) == classes:
        for words, key in keys.items():
            ordered = sorted(folders, key=key)
            orders[words] = np.array([ordered.index(folder) for folder in folders])
    if all(folder.isdecimal() for folder in folders):
        numbers = np.array([int(folder) for folder in folders])
        for words, first in (("with folders as class indices", 0), ("counted from 1", 1)):
            if numbers.min() >= first and numbers.max() - first < classes:
                orders[words] = numbers - first
    return orders


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a sort key that puts "10" after "9"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _top1(counts: NDArray[np.int64], order: NDArray[np.int64]) -> float:
    return float(counts[np.arange(len(order)), order].sum() / max(counts.sum(), 1))


def _is_more_than_chance(now: float, best: float, images: int) -> bool:
    """True for a gain of over three standard errors of a share, or of ten images or more."""
    return bool(best - now > 3 * np.sqrt(0.25 / images)) or images * (best - now) >= 10
