from __future__ import annotations

import math

import pytest

from vit_edge.export.search import rank, search_raised
from vit_edge.export.sensitivity import Sensitivity

PARTS = tuple(
    Sensitivity(f"part {n}", 10 + n % 3, 0.0, 0.001 * (n * 7 % 32 + 1)) for n in range(32)
)


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 17, 30, 31])
def test_the_fewest_parts_are_raised(needed: int) -> None:
    must, tried = {s.unit for s in rank(PARTS)[:needed]}, []

    def prove(units: tuple[str, ...]) -> str | None:
        tried.append(units)
        return None if must <= set(units) else "too far away"

    found = search_raised(PARTS, "drop is 3.00 points", prove)
    assert found is not None
    assert set(found.units) == must
    assert list(found.units) == [s.unit for s in PARTS if s.unit in must]  # in graph order
    assert len(tried) <= 2 * math.ceil(math.log2(len(PARTS))) + 1
    assert "drop is 3.00 points" in found.reason
    cost = sum(s.cost for s in PARTS if s.unit not in must) / sum(s.cost for s in PARTS)
    assert found.kept == pytest.approx(cost)


def test_a_precision_with_nothing_left_quantised_is_none() -> None:
    assert search_raised(PARTS, "bad", lambda units: "still bad") is None
    assert search_raised(PARTS[:1], "bad", lambda units: None) is None


def test_cheap_and_harmful_parts_go_first() -> None:
    cheap, dear, harmless = (
        Sensitivity("cheap", 1, 0.0, 0.1),
        Sensitivity("dear", 100, 0.0, 0.2),
        Sensitivity("harmless", 1, 0.0, 0.001),
    )
    assert rank([harmless, dear, cheap]) == (cheap, dear, harmless)
