from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_edge.runtime.tools.compare.axes import Axis, decades, from_zero, spanning

values = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=8)


@settings(max_examples=80)
@given(values, st.sampled_from([spanning, from_zero, decades]))
def test_values_lie_on_the_axis_in_order_and_ticks_are_apart(
    found: list[float], make: object
) -> None:
    axis: Axis = make(found, 40.0, 390.0)  # type: ignore[operator]
    places = [axis.at(value) for value in sorted(found)]
    assert places == sorted(places)
    assert all(40 <= place <= 390 for place in places)
    ticks = [axis.at(tick) for tick in axis.ticks()]
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 9
    assert all(b - a > 20 for a, b in pairwise(ticks))


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis(0, 1, 0, 300, logarithmic=False), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(0.09, 11, 0, 200, logarithmic=True), ["0.1", "1", "10"]),
        (
            Axis(1e-7, 1e-2, 0, 300, logarithmic=True),
            ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"],
        ),
        (Axis(0, 25000, 0, 200, logarithmic=False), ["0", "10\u2009000", "20\u2009000"]),
        (Axis(0.0, 1e6, 0, 100, logarithmic=False), ["0", "5·10⁵", "10⁶"]),
    ],
)
def test_ticks_are_round(axis: Axis, expected: list[str]) -> None:
    assert [axis.label(tick) for tick in axis.ticks()] == expected


def test_an_axis_may_run_upwards() -> None:
    axis = from_zero([10.0], 250.0, 30.0)
    assert axis.at(0) == 250
    assert axis.at(10) < 50
