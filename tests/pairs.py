"""Few combinations instead of all: faults are seldom of three things at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def all_pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Combinations in which every two values of different axes meet, chosen greedily."""
    rows = list(product(*axes))
    meeting = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*meeting.values())
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(meeting[row] & missing))
        missing -= meeting[best]
        chosen.append(best)
    return chosen
