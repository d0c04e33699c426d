"""Damage of any kind is our own error, before another library sees a byte."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.specs import vector
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST, digest_line


def rewrite_manifest(bundle: Path, change: Any) -> None:
    """Changes the manifest and signs it with its new hash, as somebody with a text editor might."""
    value = json.loads((bundle / MANIFEST).read_text())
    change(value)
    write_manifest(bundle, json.dumps(value).encode())


def _engine(manifest: dict[str, Any]) -> dict[str, Any]:
    """The first engine of a manifest, which has a plan wherever TensorRT for RTX is."""
    return next(e for p in manifest["precisions"].values() for e in p["engines"])  # type: ignore[no-any-return]


def _plan(manifest: dict[str, Any]) -> dict[str, Any]:
    return _engine(manifest)["plan"]  # type: ignore[no-any-return]


def write_manifest(bundle: Path, raw: bytes) -> None:
    """Writes the manifest with its hash."""
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / MANIFEST_DIGEST).write_bytes(digest_line(hashlib.sha256(raw).hexdigest()))


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Puts a file into the bundle, with its hash, as an attacker would."""
    (bundle / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    rewrite_manifest(bundle, lambda m: m["files"].update({name: entry}))


def all_files(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def test_an_untouched_bundle_verifies(bundle: Path) -> None:
    Bundle.open(bundle).verify()


def test_any_missing_file_is_named(bundle: Path) -> None:
    for path in all_files(bundle):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=path.name):
            Bundle.open(bundle).verify()
        path.write_bytes(kept)
    Bundle.open(bundle).verify()


def test_any_altered_or_truncated_or_longer_file_is_named(bundle: Path) -> None:
    for path in all_files(bundle):
        kept = path.read_bytes()
        middle = len(kept) // 2
        flipped = kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :]
        for damaged in (
            flipped,
            kept[:middle],
            b"",
            kept + b"\0" if path.name != MANIFEST_DIGEST else b"x",
        ):
            path.write_bytes(damaged)
            with pytest.raises(BundleError, match="manifest|" + path.name):
                Bundle.open(bundle).verify()
        path.write_bytes(kept)
    Bundle.open(bundle).verify()


def test_damaged_bytes_never_reach_onnxruntime(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("damaged bytes reached ONNX Runtime")

    for path in (bundle / "onnx").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BundleError, match="altered"):
        Engine.load(bundle)


def test_links_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    target = bundle / "onnx" / "fp32.onnx"
    outside = tmp_path / "outside.onnx"
    target.rename(outside)
    target.symlink_to(outside)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(bundle).read("onnx/fp32.onnx")
    target.unlink()
    (bundle / "onnx").rename(tmp_path / "elsewhere")
    (bundle / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(bundle).read("onnx/int8.onnx")


def test_a_pipe_in_place_of_a_file_does_not_hang(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    os.mkfifo(bundle / "golden.npz")
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(bundle).golden()


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "onnx/../../x", "a//b", ".hidden", "a\\b", ""]
)
def test_paths_out_of_the_bundle_are_refused(bundle: Path, name: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"]["golden.npz"]

    rewrite_manifest(bundle, change)
    with pytest.raises(BundleError, match="plain relative path"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("spec"), "missing fields"),
        (lambda m: m.update(extra=1), "unknown fields"),
        (lambda m: m["spec"].update(outputs="10"), "Manifest.spec.outputs"),
        (lambda m: _plan(m).update(kernels=-1), "kernels"),
        (lambda m: _plan(m).update(linear_work={"int8": 7.0}), "linear_work"),
        (lambda m: _engine(m).update(plan_file="engines/x.json"), "engines/x.json"),
        (lambda m: m["spec"].update(outputs=-1), "Manifest.spec"),
        (lambda m: m["spec"].update(outputs=[]), "Manifest.spec"),
        (lambda m: m["spec"]["outputs"][0].update(kind="x"), "unknown kind of output 'x'"),
        (lambda m: m["spec"]["outputs"][0].update(shape=[2, 3]), "cannot be of the kind logits"),
        (lambda m: m["spec"]["outputs"][0].update(name="../x"), "output name"),
        (lambda m: m["spec"]["outputs"].append(m["spec"]["outputs"][0]), "two of one name"),
        (lambda m: m["spec"].update(batch=[4, 2, 1]), "Manifest.spec"),
        (lambda m: m["spec"].update(batch=[1, 1, 10**12]), "Manifest.spec"),
        (lambda m: m["files"]["golden.npz"].update(size=-5), "size"),
        (lambda m: m["files"]["golden.npz"].update(sha256="zz"), "sha256"),
        (lambda m: m["files"].pop("golden.npz"), "golden.npz"),
        (lambda m: m.update(schema_version=99), "made by a newer vit-edge: update"),
        (
            lambda m: m.update(schema_version=2),
            "schema_version is 2, this vit-edge reads 3 to 8: export",
        ),
        (lambda m: m.update(precisions={}), "no precision"),
        (lambda m: m["preprocess"].update(height=9), "preprocess makes"),
        (lambda m: m["preprocess"].update(std=[0.0]), "not positive"),
        (lambda m: m.update(labels=["a"]), "1 labels for 10 outputs"),
        (
            lambda m: m["precisions"]["fp32"]["graphs"]["cpu"].update(rms_tolerance=10**400),
            "401 digits",
        ),
        (
            lambda m: m["precisions"]["fp32"]["graphs"]["cpu"].update(rms_tolerance=float("nan")),
            "NaN is not a finite number",
        ),
        (
            lambda m: m["precisions"]["fp32"]["graphs"]["cpu"].update(rms_tolerance=1e9),
            "rms_tolerance",
        ),
        (
            lambda m: m["precisions"]["fp32"]["graphs"]["cpu"]["accuracy"].update(images=-1),
            "accuracy.images",
        ),
        (
            lambda m: m["precisions"]["fp32"]["graphs"]["cpu"].update(external=["golden.npz"]),
            "beside",
        ),
        (
            lambda m: m["spec"].update(batch=[1, 1, 1 << 16], image_shape=[1 << 9, 1 << 9, 3]),
            "a batch takes",
        ),
        (lambda m: m["files"]["golden.npz"].update(size=1 << 60), "size"),
        (lambda m: m["files"].update({"model.sig": m["files"]["golden.npz"]}), "plain"),
        (lambda m: m["files"].update({"Golden.npz": m["files"]["golden.npz"]}), "upper and lower"),
        (lambda m: m.update(name="\x1b[2J"), "not printable"),
        (lambda m: m.update(name="a\u202eb"), "not printable"),
        (lambda m: m["tools"].update({"a\nb": "c"}), "not printable"),
        (lambda m: m.update(name="\ud800"), "not printable"),
        (lambda m: m.update(name="x" * 100_000), "100000 characters"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle: Path, change: Any, named: str) -> None:
    rewrite_manifest(bundle, change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert named in str(caught.value)


def _one_output(manifest: dict[str, Any], output: str) -> None:
    """As it was before outputs had kinds."""
    manifest["spec"].update(output_name=output, outputs=10)
    for precision in manifest["precisions"].values():
        for graph in precision["graphs"].values():
            for measure in ("accuracy", "rms_tolerance"):
                (graph[measure],) = graph[measure].values()
            for new in ("average_precision", "metric", "reference_metric"):
                del graph["accuracy"][new]


@pytest.mark.parametrize("version", [3, 4])
def test_a_bundle_of_an_older_version_is_read_and_runs(
    bundle: Path, version: int, digit_frames: np.ndarray
) -> None:
    """As they were written before engines had plans, and outputs kinds."""
    with Engine.load(bundle, "fp32", "onnxruntime") as engine:
        expected = engine(digit_frames)

    def change(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = version
        _one_output(manifest, "logits")
        for facts in (manifest["model"], manifest["provenance"]):
            facts.update({name: str(value) for name, value in facts.items()})
        for precision in manifest["precisions"].values():
            for engine in precision["engines"]:
                for new in ("form", "plan_file", "plan") if version == 3 else ():
                    del engine[new]

    rewrite_manifest(bundle, change)
    manifest = Bundle.open(bundle).manifest
    assert (manifest.model["embed_dim"], manifest.provenance["seed"]) == ("64", "0")
    if version == 3:
        engines = [e for p in manifest.precisions.values() for e in p.engines]
        assert all((e.form, e.plan_file, e.plan) == ({}, "", None) for e in engines)
    assert manifest.spec.outputs == (vector("logits", 10),)
    with Engine.load(bundle, "fp32", "onnxruntime") as engine:
        np.testing.assert_array_equal(engine(digit_frames), expected)


def test_features_of_an_older_bundle_are_an_embedding(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest.update(schema_version=4, labels=None)
        _one_output(manifest, "features")

    rewrite_manifest(bundle, change)
    assert Bundle.open(bundle).manifest.spec.outputs == (vector("features", 10),)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, raw: bytes) -> None:
    write_manifest(bundle, raw)
    with pytest.raises(BundleError):
        Bundle.open(bundle)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle at"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(tmp_path)


def test_golden_samples_are_pytorchs_answers(bundle: Path) -> None:
    golden = Bundle.open(bundle).golden()
    assert golden.labels is not None
    assert len(golden) == 256
    assert (golden.logits.argmax(axis=1) == golden.labels).mean() > 0.95


def test_golden_samples_that_do_not_fit_are_refused(bundle: Path) -> None:
    path = bundle / "golden.npz"
    np.savez(path, images=np.zeros((2, 9, 9, 1), np.uint8), logits=np.zeros((2, 10), np.float32))
    replace_file(bundle, "golden.npz", path.read_bytes())
    with pytest.raises(BundleError, match="does not fit the manifest"):
        Bundle.open(bundle).golden()
