from __future__ import annotations

import math

import pytest

from vit_edge.export.search import Problem, find_fallback, rank
from vit_edge.export.sensitivity import Sensitivity

LAYERS = tuple(
    Sensitivity(f"layer {n}", 10 + n % 3, 0.0, 0.001 * (n * 7 % 32 + 1)) for n in range(32)
)


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 17, 30, 31])
def test_the_fewest_layers_fall_back(needed: int) -> None:
    must, tried = {s.layer for s in rank(LAYERS)[:needed]}, []

    def prove(layers: tuple[str, ...]) -> Problem | None:
        tried.append(layers)
        return None if must <= set(layers) else Problem("too far away")

    fallback = find_fallback(LAYERS, Problem("drop is 3.00 points"), prove)
    assert fallback is not None
    assert set(fallback.layers) == must
    assert list(fallback.layers) == [s.layer for s in LAYERS if s.layer in must]  # in graph order
    assert len(tried) <= 2 * math.ceil(math.log2(len(LAYERS))) + 1
    assert "drop is 3.00 points" in fallback.reason
    cost = sum(s.cost for s in LAYERS if s.layer not in must) / sum(s.cost for s in LAYERS)
    assert fallback.quantised_share == pytest.approx(cost)


def test_a_precision_with_nothing_left_quantised_is_none() -> None:
    bad = Problem("bad")
    assert find_fallback(LAYERS, bad, lambda layers: bad) is None
    assert find_fallback(LAYERS[:1], bad, lambda layers: None) is None


NAMED = tuple(
    Sensitivity(name, 10, 0.0, error)
    for name, error in (
        ("blocks.0.attn.qkv", 0.9),
        ("blocks.0.attn.proj", 0.8),
        ("blocks.1.attn.q + blocks.1.attn.k", 0.1),
        ("blocks.1.mlp.fc1", 0.2),
        ("blocks.1.mlp.fc2", 0.01),
        ("blocks.10.mlp.fc2", 0.7),
    )
)


def test_layers_that_faults_name_fall_back_first() -> None:
    """However little they change the outputs; those of a fault that shows later come next."""
    first, second = Problem("wrong", ("blocks.1.mlp",)), Problem("more", ("blocks.1.attn.k",))
    must = {"blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "blocks.1.attn.q + blocks.1.attn.k"}

    def prove(layers: tuple[str, ...]) -> Problem | None:
        if must <= set(layers):
            return None
        return first if "blocks.1.mlp.fc1" not in layers else second

    fallback = find_fallback(NAMED, first, prove)
    assert fallback is not None
    assert set(fallback.layers) == must


def test_naming_that_does_not_help_is_given_up() -> None:
    def prove(layers: tuple[str, ...]) -> Problem | None:
        return None if "blocks.0.attn.qkv" in layers else Problem("wrong", ("blocks.1.mlp",))

    fallback = find_fallback(NAMED, Problem("wrong", ("blocks.1.mlp",)), prove)
    assert fallback is not None
    assert fallback.layers == ("blocks.0.attn.qkv",)


def test_cheap_and_harmful_parts_go_first() -> None:
    cheap, dear, harmless = (
        Sensitivity("cheap", 1, 0.0, 0.1),
        Sensitivity("dear", 100, 0.0, 0.2),
        Sensitivity("harmless", 1, 0.0, 0.001),
    )
    assert rank([harmless, dear, cheap]) == (cheap, dear, harmless)
