"""`vit-edge build`: with TensorRT for RTX in earnest, told that its GPU is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, Built, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate
from vit_edge.runtime.device_cache import DeviceCache, timing_caches
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.tools.cli import main

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    if PROBLEM:
        pytest.skip(PROBLEM)
    monkeypatch.setattr(cuda, "device_problem", lambda: None)
    monkeypatch.setattr(cuda, "device_name", lambda: "Some GPU (8.9)")


def kept(bundle: Path) -> dict[str, int]:
    """Sizes of the engines in the device's cache, by precision."""
    cache = DeviceCache.of(Bundle.open(bundle).digest)
    engines = {p: cache.engine(Candidate(p, RTX).key) for p in ("fp32", "fp16", "int8")}
    return {precision: len(blob) for precision, blob in engines.items() if blob is not None}


def build(bundle: Path, *arguments: str) -> int:
    return main(["build", str(bundle), "--target", "tensorrt-rtx", *arguments])


def test_one_precision_that_is_asked_for_is_built(
    device: None, bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(bundle_source, "--precision", "fp16") == 0
    assert kept(bundle_source).keys() == {"fp16"}
    assert "fp16: " in capsys.readouterr().out


def test_one_that_fails_keeps_no_other_from_being_built(
    device: None,
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    genuine = TensorRT.compile
    calls: list[int] = []

    def compile_or_fail(
        self: TensorRT, onnx: bytes, spec: EngineSpec, options: BuildOptions
    ) -> Built:
        calls.append(len(onnx))
        if len(calls) == 1:
            raise EngineError("no tactic for this layer")
        return genuine(self, onnx, spec, options)

    monkeypatch.setattr(TensorRT, "compile", compile_or_fail)
    assert build(bundle_source, "--precision", "fp16", "--precision", "int8") == 1
    assert kept(bundle_source).keys() == {"int8"}
    assert "fp16: not built: no tactic for this layer\n" in capsys.readouterr().out


def test_ctrl_c_ends_it_with_nothing_half_written(
    device: None, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vit_edge.runtime.tools.build._say_progress", progress)
    assert build(bundle_source) == 130
    assert kept(bundle_source) == {}
    folder = DeviceCache.of(Bundle.open(bundle_source).digest).folder
    assert [file for file in folder.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "onnxruntime"), "nothing to build"),
        (("--target", "tensorrt-rtx", "--precision", "fp7"), "no precision 'fp7'"),
        (("--target", "nonesuch"), "unknown backend 'nonesuch'"),
    ],
)
def test_a_wrong_wish_is_one_line(
    bundle_source: Path,
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", str(bundle_source), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_timing_caches_belong_to_the_device_not_to_a_bundle() -> None:
    assert timing_caches().parent == DeviceCache.of("some-bundle").folder.parent
