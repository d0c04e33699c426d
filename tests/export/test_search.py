from __future__ import annotations

import math

import pytest

from vit_edge.export.search import find_fallback, rank
from vit_edge.export.sensitivity import Sensitivity

LAYERS = tuple(
    Sensitivity(f"layer {n}", 10 + n % 3, 0.0, 0.001 * (n * 7 % 32 + 1)) for n in range(32)
)


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 17, 30, 31])
def test_the_fewest_layers_fall_back(needed: int) -> None:
    must, tried = {s.layer for s in rank(LAYERS)[:needed]}, []

    def prove(layers: tuple[str, ...]) -> str | None:
        tried.append(layers)
        return None if must <= set(layers) else "too far away"

    fallback = find_fallback(LAYERS, "drop is 3.00 points", prove)
    assert fallback is not None
    assert set(fallback.layers) == must
    assert list(fallback.layers) == [s.layer for s in LAYERS if s.layer in must]  # in graph order
    assert len(tried) <= 2 * math.ceil(math.log2(len(LAYERS))) + 1
    assert "drop is 3.00 points" in fallback.reason
    cost = sum(s.cost for s in LAYERS if s.layer not in must) / sum(s.cost for s in LAYERS)
    assert fallback.quantised_share == pytest.approx(cost)


def test_a_precision_with_nothing_left_quantised_is_none() -> None:
    assert find_fallback(LAYERS, "bad", lambda layers: "still bad") is None
    assert find_fallback(LAYERS[:1], "bad", lambda layers: None) is None


def test_cheap_and_harmful_parts_go_first() -> None:
    cheap, dear, harmless = (
        Sensitivity("cheap", 1, 0.0, 0.1),
        Sensitivity("dear", 100, 0.0, 0.2),
        Sensitivity("harmless", 1, 0.0, 0.001),
    )
    assert rank([harmless, dear, cheap]) == (cheap, dear, harmless)
