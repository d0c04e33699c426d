"""Which of a bundle's engines is used, and that the others are never passed over silently."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, Built, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST, EngineEntry, EngineSpec
from vit_edge.runtime.prebuilt import find_prebuilt, passed_over

from .backends.rig import make_rig

TENSORRT = BACKENDS["tensorrt"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10.99 on an emulated GPU of compute capability 8.9; it "builds" the graph itself."""
    rig = make_rig(monkeypatch, "10", max_batch=4)
    rig.library.__version__ = "10.99"

    def compile_here(self: TensorRT, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        return Built(onnx)

    monkeypatch.setattr(TensorRT, "compile", compile_here)


def with_engines(bundle: Path, *engines: tuple[str, str]) -> Path:
    """The bundle with engines for TensorRT of these versions and compute capabilities, each of
    them the fp32 graph.
    """
    manifest = json.loads((bundle / MANIFEST).read_text())
    content = (bundle / manifest["precisions"]["fp32"]["graphs"]["gpu"]["file"]).read_bytes()
    for version, capability in engines:
        file = f"engines/fp32.tensorrt-{version}-{capability}.engine"
        (bundle / file).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        manifest["files"][file] = {"sha256": sha256, "size": len(content)}
        entry = EngineEntry(file, "tensorrt", version, (capability,))
        manifest["precisions"]["fp32"]["engines"].append(dataclasses.asdict(entry))
    raw = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(raw)
    old = (bundle / MANIFEST_DIGEST).read_text()
    digest = hashlib.sha256(raw).hexdigest()
    (bundle / MANIFEST_DIGEST).write_text(old.replace(old.split()[0], digest))
    return bundle


def test_an_engine_that_opens_is_found_among_others(gpu: None, bundle: Path) -> None:
    path = with_engines(bundle, ("10.3", "8.9"), ("10.99", "8.7"), ("10.99", "8.9"))
    manifest = Bundle.open(path).manifest
    found = find_prebuilt(manifest, "fp32", TENSORRT)
    assert found is not None
    assert found.file == "engines/fp32.tensorrt-10.99-8.9.engine"
    assert passed_over(manifest, "fp32", TENSORRT) == []


def test_each_engine_that_does_not_open_is_told_of(gpu: None, bundle: Path) -> None:
    path = with_engines(bundle, ("10.3", "8.9"), ("10.99", "8.7"))
    manifest = Bundle.open(path).manifest
    assert find_prebuilt(manifest, "fp32", TENSORRT) is None
    problems = passed_over(manifest, "fp32", TENSORRT)
    assert len(problems) == 2
    assert "built by tensorrt 10.3 for 8.9; here are tensorrt 10.99 and 8.9" in problems[0]
    assert "built by tensorrt 10.99 for 8.7; here are" in problems[1]


def test_the_reason_is_in_the_log_and_in_the_info(
    gpu: None, bundle: Path, digit_frames: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_engines(bundle, ("10.3", "8.7"))
    reason = "was built by tensorrt 10.3 for 8.7; here are tensorrt 10.99 and 8.9"
    with (
        caplog.at_level(logging.WARNING, "vit_edge.runtime"),
        Engine.load(path, "fp32", "tensorrt") as engine,
    ):
        assert engine(digit_frames).shape == (10, 10)
        assert reason in engine.info.why
    assert reason in caplog.text
    assert "`vit-edge build BUNDLE --target tensorrt`" in caplog.text


def test_a_backend_without_engines_has_none(bundle_source: Path) -> None:
    manifest = Bundle.open(bundle_source).manifest
    assert passed_over(manifest, "fp32", BACKENDS["onnxruntime"]) == []
    assert find_prebuilt(manifest, "fp32", BACKENDS["onnxruntime"]) is None


def test_lean_takes_older_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(__version__="11.4.0")
    monkeypatch.setattr(TensorRT, "_library", lambda self: library)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
    engine = EngineEntry("engines/x", "tensorrt-lean", "10.3", ("8.9",))
    assert BACKENDS["tensorrt-lean"].engine_problem(engine) is None
