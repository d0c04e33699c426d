"""Contests whose outcome is given: every call is made once, and timed by a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime.tools.measure.rounds import Contest, Schedule, Series
from vit_edge.runtime.tools.tune import trials

ROUNDS = 12


def series(milliseconds: float, spread: float = 0.0) -> Series:
    """Rounds of four calls, which differ from round to round by up to `spread`, relative."""
    factors = 1 + spread * np.linspace(-1, 1, ROUNDS)
    return Series(tuple(np.full(4, milliseconds * factor) for factor in factors), 1.0)


def rig_contests(
    monkeypatch: pytest.MonkeyPatch, *tables: Mapping[str, float]
) -> list[tuple[str, ...]]:
    """Lets each contest take its milliseconds from the next table, the last one again and again; 1
    for who is not in it. Returns the list of who took part, which grows.
    """
    held: list[tuple[str, ...]] = []

    def measure(
        calls: Mapping[str, Callable[[], object]], schedule: Schedule, progress: Any
    ) -> Contest[str]:
        table = tables[min(len(held), len(tables) - 1)]
        held.append(tuple(calls))
        for call in calls.values():
            call()
        return Contest({name: series(table.get(name, 1.0)) for name in calls}, {})

    monkeypatch.setattr(trials, "measure_rounds", measure)
    return held
