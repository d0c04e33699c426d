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
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST, EngineEntry, EngineSpec

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


def with_engines(bundle: Path, *engines: tuple[str, str], named: bool = False) -> Path:
    """Adds engines for TensorRT of these versions and compute capabilities to a bundle: each is the
    fp32 graph, or where `named` just its own name.
    """
    manifest = json.loads((bundle / MANIFEST).read_text())
    graph = (bundle / manifest["precisions"]["fp32"]["graphs"]["gpu"]["file"]).read_bytes()
    for version, capability in engines:
        content = f"{version}-{capability}".encode() if named else graph
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
    path = with_engines(bundle, ("10.3", "8.9"), ("10.99", "8.7"), ("10.99", "8.9"), named=True)
    deployment, candidate = Deployment(Bundle.open(path)), Candidate("fp32", TENSORRT)
    blob = deployment.load(candidate)
    assert blob is not None
    assert blob.data == b"10.99-8.9"
    assert deployment.prebuilt_problems(candidate) == []


def test_each_engine_that_does_not_open_is_told_of(gpu: None, bundle: Path) -> None:
    path = with_engines(bundle, ("10.3", "8.9"), ("10.99", "8.7"))
    deployment, candidate = Deployment(Bundle.open(path)), Candidate("fp32", TENSORRT)
    assert not deployment.has_engine(candidate)
    problems = deployment.prebuilt_problems(candidate)
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
    deployment = Deployment(Bundle.open(bundle_source))
    candidate = Candidate("fp32", BACKENDS["onnxruntime"])
    assert deployment.prebuilt_problems(candidate) == []
    blob, graph = deployment.load(candidate), deployment.graph(candidate)
    assert blob is not None
    assert blob.data == (bundle_source / graph.file).read_bytes()


def test_lean_takes_older_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(__version__="11.4.0")
    monkeypatch.setattr(TensorRT, "_library", lambda self: library)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
    engine = EngineEntry("engines/x", "tensorrt-lean", "10.3", ("8.9",))
    assert BACKENDS["tensorrt-lean"].engine_problem(engine) is None
