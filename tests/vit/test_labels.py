from __future__ import annotations

import json
from pathlib import Path

import pytest

from vit_edge.runtime.errors import InputError
from vit_edge.vit.labels import Labels, names_of, read_labels


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("cat\r\ndog\n\n", Labels(("cat", "dog"))),
        (
            "n00000002 tench, Tinca\nn00000001 crane",
            Labels(("tench, Tinca", "crane"), (("n00000002", 0), ("n00000001", 1))),
        ),
        ("0 cat\n1 dog", Labels(("cat", "dog"))),
        ("1: dog\n0: cat", Labels(("cat", "dog"))),
        ("7 up\n8 ball", Labels(("7 up", "8 ball"))),
        (["cat", "dog"], Labels(("cat", "dog"))),
        ({"0": "cat", "1": "dog"}, Labels(("cat", "dog"))),
        ({"1": "dog", "0": "cat"}, Labels(("cat", "dog"))),
        ({"0": ["n1", "cat"], "1": ["n2", "dog"]}, Labels(("cat", "dog"), (("n1", 0), ("n2", 1)))),
        ({"dog": 1, "cat": 0}, Labels(("cat", "dog"), (("dog", 1), ("cat", 0)))),
        ({"x": 0, "y": 0}, Labels(None, (("x", 0), ("y", 0)))),
        ({"10": 1, "20": 0}, Labels(None, (("10", 1), ("20", 0)))),
        ({"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}}, Labels(("cat", "dog"))),
        ({"label2id": {"dog": 1, "cat": 0}}, Labels(("cat", "dog"), (("dog", 1), ("cat", 0)))),
    ],
)  # fmt: skip
def test_every_form_is_read(content: object, labels: Labels, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    for name in ("labels.txt", "labels.json"):
        if name.endswith("txt") or not isinstance(content, str):
            (tmp_path / name).write_text(text)
            assert read_labels(tmp_path / name) == labels


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("cat\n\ndog", "line 2 is empty"),
        ("[]", "not a list of names"),
        ('["cat", ""]', "not a list of names"),
        ('{"1": "cat", "2": "dog"}', "none for class 0"),
        ('{"0": "cat", "2": "dog"}', "none for class 1"),
        ('{"cat": -1}', "indices below 0"),
        ('{"cat": "dog"}', "neither indices to names nor names to indices"),
        ('{"0": 1.5}', "not a list of names"),
        ("{", "cannot be read"),
    ],
)
def test_gaps_and_other_forms_are_named(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(content)
    with pytest.raises(InputError, match=named):
        read_labels(tmp_path / "labels")


def test_what_a_training_saved_is_names_or_nothing() -> None:
    assert names_of({"cat": 0, "dog": 1}) == ("cat", "dog")
    assert names_of(["cat"]) == ("cat",)
    for other in (10, None, {"cat": 3}, [1, 2], "cat", {0: 1.0}):
        assert names_of(other) is None
