"""A set that the model would answer better under another order of the classes says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.export.class_order import better_order
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime.bundle import Bundle
from vit_edge.vit.datasets import digits
from vit_edge.vit.variants import find_variant

from ..effort import ONE_CALL

IMAGES = 20


def remark(
    folders: Sequence[str], read: Sequence[int], true: Sequence[int], right: float = 1.0
) -> str | None:
    """For a model that gives images of folder i the class `true[i]`, as often as `right` says."""
    random, classes = np.random.default_rng(0), max([*read, *true]) + 1
    answers = np.repeat(true, IMAGES)
    wrong = random.random(len(answers)) > right
    answers[wrong] = random.integers(0, classes, wrong.sum())
    pairs = list(zip(folders, read, strict=True))
    return better_order(np.eye(classes, dtype=np.float32)[answers], np.repeat(read, IMAGES), pairs)


def test_trainings_by_text_and_by_number_are_told_apart() -> None:
    folders = [str(index) for index in range(12)]
    text = [sorted(folders).index(folder) for folder in folders]
    number = list(range(12))
    found = remark(folders, number, text, 0.9)
    assert found is not None
    assert "as text, as torchvision has them (2 is 4, 3 is 5, " in found
    found = remark(folders, text, number, 0.9)
    assert found is not None
    assert "natural order" in found


def test_classes_counted_from_1_and_swapped_ones_are_found() -> None:
    found = remark(["1", "2", "3"], [1, 2, 3], [0, 1, 2])
    assert found is not None
    assert "counted from 1 (1 is 0, 2 is 1, 3 is 2)" in found
    found = remark(["a_square", "b_circle"], [0, 1], [1, 0], 0.8)
    assert found is not None
    assert "if the folders were other classes (a_square is 1, b_circle is 0)" in found
    assert "--labels" in found


@pytest.mark.parametrize("right", [1.0, 0.6, 0.0])
def test_a_good_order_and_a_model_that_knows_nothing_give_no_remark(right: float) -> None:
    folders = [f"class {index:02}" for index in range(12)]
    assert remark(folders, range(12), range(12), right) is None


def test_an_export_says_it_in_its_report(
    digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = digits("evaluation", find_variant("vit_digits").preprocess)
    for position, label in enumerate(images.label_list() or []):
        folder = tmp_path / "digits" / f"{'jihgfedcba'[label]}-digit"
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.iterdir())) < 6:
            pixels = images.read(images.indices[position])[:, :, 0]
            Image.fromarray(pixels).save(folder / f"{position}.png")
    request = ExportRequest(
        model="vit_digits",
        weights=str(digits_weights),
        calibration="digits",
        evaluation=str(tmp_path / "digits"),
        out=tmp_path / "out",
        precisions=("fp32",),
        targets=("onnxruntime",),
        timing=ONE_CALL,
    )
    report = export_bundle(request, Display())
    assert any("the classes may be in another order" in note for note in report.notes)
    manifest = Bundle.open(tmp_path / "out").manifest
    assert "in the order of their names (assumed" in manifest.provenance["classes"]
    said = capsys.readouterr().err
    assert "in the order of their names (assumed" in said
    assert "a-digit is 9, b-digit is 8" in said
