from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cost import (
    MODELS,
    MORE_IMAGES,
    ROWS,
    Cost,
    add,
    export,
    markdown,
    stages_of,
    straight,
    write_images,
)


def test_stages_are_read_from_what_an_export_says() -> None:
    said = (
        "vit, random weights: its classes mean nothing\n"
        "weights: 2.2 s\nint8 accuracy, as it is: 1.5 s\nint8 accuracy, as it is: 2.0 s\n"
        "bundle: unchanged\n"
    )
    assert stages_of(said) == {"weights": 2.2, "int8 accuracy, as it is": 3.5}


@pytest.mark.slow
def test_an_export_is_measured_and_a_failure_is_told(tmp_path: Path) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps({"depth": 1}))
    options = (f"--config={config}", "--precision", "fp32")
    cost = export("small", "vit_tiny_patch16_224", tmp_path, *options, images=4)
    assert 100 < cost.peak_mib < 10_000
    assert {"weights", "ONNX graph", "fp32 graph", "bundle"} <= set(cost.stages)
    assert sum(cost.stages.values()) <= cost.seconds
    with pytest.raises(RuntimeError, match=r"small: .*no such"):
        export("small", "vit_tiny_patch16_224", tmp_path, "--config=no such.json", images=4)


def cost(what: str, seconds: float, **stages: float) -> Cost:
    return Cost(what, seconds, 500, stages, "2026-01-01")


def test_the_tables_have_every_stage_once() -> None:
    costs = [asdict(cost("ViT", 3.0, a=1.0)), asdict(cost("larger", 4.0, a=2.0, b=1.0))]
    images = [asdict(cost("64 images", 1.0)), asdict(cost("128 images", 2.5))]
    tables = markdown({"machine": "CPU", "models": costs, "images": images, "depth": images})
    assert "| a | 1.0 | 2.0 |\n| b |  | 1.0 |\n| **all, in seconds** | **3** | **4** |" in tables
    assert "| 64 images | 128 images |" in tables


def test_a_straight_line_shows_what_is_not_on_it() -> None:
    on_it = [cost(f"{n} images", 10 + n / 4) for n in (4, 8, 16)]
    assert straight(on_it) == pytest.approx([11, 12, 14])
    off = [*on_it, cost("32 images", 34)]
    assert max(abs(s - c.seconds) for s, c in zip(straight(off), off, strict=True)) > 1


def test_a_row_replaces_its_own_and_keeps_its_place() -> None:
    report: dict[str, Any] = {}
    for row in reversed(ROWS[:3]):
        add(report, row, cost(row.what, 1))
    add(report, ROWS[1], cost(ROWS[1].what, 2))
    assert [(r["what"], r["seconds"]) for r in report["models"]] == [
        (MODELS[0], 1), (MODELS[1], 2), (MODELS[2], 1),
    ]  # fmt: skip


def test_every_image_is_another(tmp_path: Path) -> None:
    path = write_images(tmp_path, "vit_tiny_patch16_224", "evaluation", max(MORE_IMAGES))
    images = np.load(path)["images"]
    assert len({image.tobytes() for image in images}) == max(MORE_IMAGES)
    with pytest.raises(ValueError, match="9999 images are too many"):
        write_images(tmp_path, "vit_tiny_patch16_224", "evaluation", 9999)
