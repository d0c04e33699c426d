from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contest_tables import best_settings
from benchmarks.measures import relative_error
from benchmarks.probe import fit_probe


def row(quantiser: str, agreement: float, verdict: str = "ahead") -> dict[str, Any]:
    leads = {f"lead_{key}": {"verdict": verdict} for key in ("top1", "agreement")}
    return {"model": "m", "quantiser": quantiser, "agreement": agreement, "top1": 90.0} | leads


def test_of_each_peer_the_setting_with_the_highest_agreement_is_shown() -> None:
    failed = {"model": "m", "quantiser": "modelopt, default", "error": "it fell over"}
    rows = [
        {"model": "m", "quantiser": "fp32", "agreement": 100.0, "top1": 91.0},
        row("ours, int8", 99.5, "level"),
        row("onnxruntime, default", 61.0),
        row("onnxruntime, minmax", 98.0, "level"),
        row("nncf, default", 70.0),
        failed,
    ]
    text = best_settings(rows)
    assert "|  | agreement, % | 100.00 | 99.50 | 98.00 | 70.00 |  | 70.00 |" in text
    assert "Of 3 comparisons, in agreement ours is ahead in 2, level in 1, behind in 0;" in text
    assert "1 runs of peers ended with an error." in text


def test_a_probe_knows_the_classes_that_it_saw() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2], size=200)  # no image of class 1
    embeddings = rng.normal(size=(200, 8)).astype(np.float32)
    embeddings[:, 3] += 6 * labels
    assert (fit_probe(embeddings, labels)(embeddings).argmax(axis=1) == labels).mean() > 0.95


def test_an_error_is_relative_to_the_reference() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    assert np.isclose(relative_error(reference * np.float32(1.1), reference), 0.1)
