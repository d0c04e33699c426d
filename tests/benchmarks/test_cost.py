from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cost import export, markdown, stages_of


def test_stages_are_read_from_what_an_export_says() -> None:
    said = (
        "vit, random weights: its classes mean nothing\n"
        "weights: 2.2 s\nint8 accuracy, as it is: 1.5 s\nint8 accuracy, as it is: 2.0 s\n"
        "bundle: unchanged\n"
    )
    assert stages_of(said) == {"weights": 2.2, "int8 accuracy, as it is": 3.5}


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


def test_the_tables_have_every_stage_once() -> None:
    cost = {"what": "ViT", "seconds": 3.0, "peak_mib": 500, "stages": {"a": 1.0}}
    other = {"what": "larger", "seconds": 4.0, "peak_mib": 600, "stages": {"a": 2.0, "b": 1.0}}
    found = markdown(
        {"machine": "CPU", "date": "2026-01-01", "models": [cost, other], "images": [cost],
         "depth": [other]}
    )  # fmt: skip
    assert "| a | 1.0 | 2.0 |\n| b |  | 1.0 |\n| **all, in seconds** | **3** | **4** |" in found
