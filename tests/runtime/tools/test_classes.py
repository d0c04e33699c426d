"""One rule for the order of classes."""

from __future__ import annotations

import pytest

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.classes import match_folders, order_classes

IMAGENET = tuple(f"name {index}, other {index}" for index in range(1000))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("b", "a"), ("a", "b")),
        (tuple(map(str, range(12))), tuple(map(str, range(12)))),
        (("1", "2", "10"), ("1", "10", "2")),  # no class indices: as text
        (("00", "01"), ("00", "01")),
        (("0", "10", "2"), ("0", "10", "2")),
        (("0", "x"), ("0", "x")),
    ],
)
def test_a_training_counts_classes_in_one_order(
    names: tuple[str, ...], order: tuple[str, ...]
) -> None:
    assert order_classes(reversed(names)) == order


@pytest.mark.parametrize(
    ("folders", "known", "classes", "indices"),
    [
        (("circle", "square"), ("square", "circle"), 2, (1, 0)),
        (("2", "10", "0"), ("0", "1", "10", "2"), 4, (3, 2, 0)),  # names win over numbers
        (("1", "2"), ("1", "2"), 2, (0, 1)),
        (("Golden Retriever", "cat_tail"), ("cat-tail", "golden_retriever"), 2, (1, 0)),
        (("tench",), ("goldfish, Carassius auratus", "tench, Tinca tinca"), 2, (1,)),
        (("3", "0"), ("a", "b", "c", "d"), 4, (3, 0)),
        (("3", "0"), None, 4, (3, 0)),
        (("b", "a"), None, 2, (1, 0)),
        (("10", "2", "1"), None, 3, (1, 2, 0)),  # 10 is no index: the order of text
        (tuple(f"n{k:08}" for k in range(1000)), IMAGENET, 1000, tuple(range(1000))),
    ],
)
def test_folders_become_classes(
    folders: tuple[str, ...], known: tuple[str, ...] | None, classes: int, indices: tuple[int, ...]
) -> None:
    assert match_folders("data", folders, known, classes).indices == indices


@pytest.mark.parametrize(
    ("folders", "known", "classes", "named"),
    [
        (("a_square", "b_circle"), ("circle", "square"), 2, r"a_square, b_circle.*circle, square"),
        (("circle", "blob"), ("circle", "square"), 2, r"blob \(the model knows circle, square\)"),
        (("crane",), ("crane", "x", "crane"), 3, r"several of the model's classes \(0, 2\)"),
        (("Cat", "cat "), ("cat", "dog"), 2, "both the class cat"),
        (("4",), ("a", "b"), 2, r"\(4\) are none of the model's 2 classes \(a, b\)"),
        (("cat",), None, 2, "1 class folders .* the model 2 classes"),
        (("n00000001", "n00000002"), IMAGENET, 1000, "none of the model's 1000 classes"),
    ],
)
def test_what_cannot_be_matched_is_shown_with_both_lists(
    folders: tuple[str, ...], known: tuple[str, ...] | None, classes: int, named: str
) -> None:
    with pytest.raises(InputError, match=named) as refused:
        match_folders("data", folders, known, classes)
    assert "--labels" in str(refused.value)


def test_the_users_own_mapping_decides() -> None:
    mapping = {"a_square": 1, "b_circle": 0, "more": 0}
    folders, known = ("a_square", "b_circle"), ("circle", "square")
    assert match_folders("data", folders, known, 2, mapping).indices == (1, 0)
    with pytest.raises(InputError, match="--labels does not map: other"):
        match_folders("data", ("a_square", "other"), known, 2, mapping)
    with pytest.raises(InputError, match="maps a_square to 1, the model's 1 classes are 0 to 0"):
        match_folders("data", ("a_square",), None, 1, mapping)
