"""A bundle's reference statistics: what is in them, damage, and bundles from before them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.test_bundle import replace_file, rewrite_manifest
from vit_edge.runtime import Bundle, BundleError, Engine
from vit_edge.runtime.manifest import SCHEMA_VERSION, STATISTICS
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.health import DriftMonitor
from vit_edge.runtime.tools.health.statistics import (
    encode_statistics,
    measure,
    read_reference,
    statistic_names,
)
from vit_edge.vit.datasets import digits


def without_statistics(manifest: dict[str, Any], version: int = 7) -> None:
    """As version 7 wrote it."""
    del manifest["statistics"], manifest["files"][STATISTICS]
    manifest["schema_version"] = version


def test_they_are_those_of_the_evaluation_images_and_pytorchs_outputs(bundle_source: Path) -> None:
    bundle = Bundle.open(bundle_source)
    reference = read_reference(bundle)
    assert reference is not None
    spec = bundle.manifest.spec
    assert reference.names == statistic_names(spec)
    images = digits("evaluation", bundle.manifest.preprocess)
    frames = next(images.batches(len(images)))
    with Engine.load(bundle_source, "fp32") as engine:
        own = measure(frames, {"logits": engine(frames)}, spec)
    np.testing.assert_allclose(reference.values, own, rtol=1e-3, atol=1e-3)


def test_they_are_few_bytes(bundle_source: Path) -> None:
    entry = Bundle.open(bundle_source).manifest.files[STATISTICS]
    assert entry.size < 40 * 600


def test_altered_statistics_are_refused(bundle: Path) -> None:
    path = bundle / STATISTICS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"statistics\.npz was altered"):
        DriftMonitor(bundle)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.zeros((600, 3), np.float32), r"\[600, 3\]: it does not fit the manifest"),
        (np.zeros((600, 9), np.float64), "does not fit the manifest"),
        (np.zeros((60, 9), np.float32), "60 images for 600"),
        (np.full((600, 9), np.nan, np.float32), "not finite"),
        (np.full((600, 9), -1, np.float32), "class of logits is no index"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_even_with_their_hash(
    bundle: Path, values: np.ndarray, named: str
) -> None:
    replace_file(bundle, STATISTICS, encode_statistics(values))
    with pytest.raises(BundleError, match=named):
        DriftMonitor(bundle)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + 18 * b"\0", b"no archive"])
def test_statistics_that_are_no_archive_are_refused(bundle: Path, data: bytes) -> None:
    replace_file(bundle, STATISTICS, data)
    with pytest.raises(BundleError, match=r"statistics\.npz is not valid"):
        DriftMonitor(bundle)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"file": "nowhere.npz"}, "nowhere.npz"),
        ({"images": 0}, "images 0"),
        ({"images": 1 << 40}, "images 1099511627776"),
        ({"names": []}, "names"),
        ({"names": ["a", "a"]}, "names"),
    ],
)
def test_a_manifest_with_senseless_statistics_is_refused(
    bundle: Path, change: dict[str, Any], named: str
) -> None:
    rewrite_manifest(bundle, lambda m: m["statistics"].update(change))
    with pytest.raises(BundleError, match=named):
        Bundle.open(bundle)


def test_statistics_of_a_later_version_are_left_out(bundle: Path) -> None:
    """Names that are not known here, in any order."""

    def change(manifest: dict[str, Any]) -> None:
        names = manifest["statistics"]["names"]
        manifest["statistics"]["names"] = ["warmth", *names[1:]]

    rewrite_manifest(bundle, change)
    reference = read_reference(Bundle.open(bundle))
    assert reference is not None
    assert reference.names[0] == "contrast"
    assert reference.values.shape == (600, 8)


def test_a_bundle_with_unknown_statistics_alone_has_none(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        entry = manifest["statistics"]
        entry["names"] = [f"warmth {number}" for number in range(len(entry["names"]))]

    rewrite_manifest(bundle, change)
    assert read_reference(Bundle.open(bundle)) is None
    assert main(["drift", str(bundle), str(bundle)]) == 2
    assert "no reference statistics" in capsys.readouterr().err


def test_an_older_bundle_runs_and_says_that_it_has_none(
    bundle: Path, digit_frames: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_manifest(bundle, without_statistics)
    (bundle / STATISTICS).unlink()
    monitor = DriftMonitor(bundle)
    with Engine.load(bundle, "fp32", "onnxruntime", observer=monitor) as engine:
        assert engine(digit_frames).shape == (10, 10)
    report = monitor.report()
    assert (report.drift, report.reference_images, report.statistics) == (False, 0, ())
    assert "no reference statistics" in str(report)
    assert main(["inspect", str(bundle)]) == 0
    assert "no reference statistics" in capsys.readouterr().out
    assert main(["drift", str(bundle), str(bundle)]) == 2
    assert "no reference statistics" in capsys.readouterr().err


def test_inspect_lists_them(bundle_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle_source)]) == 0
    out = capsys.readouterr().out
    assert "reference statistics of 600 images (scikit-learn digits (evaluation))" in out
    assert main(["inspect", str(bundle_source), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert manifest["statistics"]["images"] == 600
    assert manifest["schema_version"] == SCHEMA_VERSION
