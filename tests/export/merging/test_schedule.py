"""Schedules: as the user gives them, by the work they save, and of growing strength."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.export.measure import predict
from vit_edge.export.merging import schedule
from vit_edge.export.merging.blocks import CannotMergeError, find_structure
from vit_edge.export.merging.matching import Sides
from vit_edge.export.merging.schedule import AUTO, parse_merge, resolve, stronger, work_model
from vit_edge.export.merging.stages import search_schedules
from vit_edge.export.progress import ignore
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import LOGITS, OutputSpec
from vit_edge.runtime.tools.images import ImageSet

OUTPUTS = (OutputSpec("logits", LOGITS, (10,)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", AUTO), ("8", 8), (8, 8), ("8, 0,4", (8, 0, 4)), ([8, 0, 4], (8, 0, 4))],
)
def test_what_to_merge_is_read(text: object, expected: object) -> None:
    assert parse_merge(text) == expected


@pytest.mark.parametrize("text", ["", "all", "-1", "0", "0,0", "8,,4", "1.5", 1.5, True, -8, [8.0]])
def test_anything_else_is_refused_with_its_value(text: object) -> None:
    with pytest.raises(InputError, match="give auto"):
        parse_merge(text)


def test_sides_leave_special_tokens_out() -> None:
    """Places are those of all tokens, as in the paper, whatever the special ones are."""
    for special in range(6):
        sides = Sides(23, special)
        assert sorted([*range(special), *sides.a, *sides.b]) == list(range(23))
        assert {place % 2 for place in sides.a} == {0}
        assert {place % 2 for place in sides.b} == {1}
    assert Sides(1, 1).most == Sides(2, 1).most == 0


def test_a_number_is_for_each_block_that_can(optimised: ir.Model) -> None:
    """The last block computes the class token alone; 16 patches make 8 pairs at most."""
    structure = find_structure(optimised.graph)
    assert resolve(3, structure) == (3, 0)
    assert resolve(99, structure) == (7, 0)
    assert resolve((2,), structure) == (2, 0)
    with pytest.raises(CannotMergeError, match="none of its 2 tokens"):
        resolve(3, replace(structure, tokens=2))
    with pytest.raises(CannotMergeError, match="the model has 2"):
        resolve((1, 1, 1), structure)


@pytest.fixture
def free_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small a model has nothing to gain otherwise."""
    monkeypatch.setattr(schedule, "STEP_AT_LEAST", 0)


def test_steps_that_cost_more_than_they_save_are_not_taken(
    optimised: ir.Model, photographs: ImageSet
) -> None:
    with pytest.raises(CannotMergeError, match="would cost more than they save"):
        search_schedules(
            optimised, optimised, OUTPUTS, photographs.subset([0, 1]), lambda v: True, ignore
        )


@pytest.mark.usefixtures("free_steps")
def test_schedules_grow_where_the_least_is_lost(optimised: ir.Model) -> None:
    structure = find_structure(optimised.graph)
    work = work_model(optimised.graph, structure)
    path = list(stronger(structure, work, [[(2, 0.1), (6, 0.5)], []]))
    assert [sum(counts) for counts in path] == [3, 4, 5, 6, 7]
    saved = [work.saved(counts) for counts in path]
    assert saved == sorted(saved)
    assert 0 < saved[0] < saved[-1] < 1


@pytest.mark.usefixtures("free_steps")
def test_the_search_takes_the_strongest_that_holds(
    optimised: ir.Model, photographs: ImageSet
) -> None:
    few = photographs.subset(range(8))

    def search(most: float) -> list[tuple[int, ...]]:
        exact = predict(optimised, few)

        def holds(values: np.ndarray) -> bool:
            return float(abs(values - exact).max()) < most

        return search_schedules(optimised, optimised, OUTPUTS, few, holds, ignore)

    assert search(0) == []
    everything = search(1e9)
    assert everything[0] == (7, 0)
    assert [sum(counts) for counts in everything] == [7, 5, 4, 3]


def search_errors(model: ir.Model, images: ImageSet) -> object:
    from vit_edge.export.measure import predict

    return predict(model, images)
