"""`vit-edge tune` on an emulated GPU: forms of a graph are built, proven, measured and kept."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from vit_edge.runtime.backends import BACKENDS, BuildOptions, Built
from vit_edge.runtime.backends.base import written_out
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.inspect import read_all
from vit_edge.runtime.tools.profile.tensorrt import find_plan

from ..tools.plan.test_engine_plan import asked
from ..tools.plan.test_listing import LISTINGS
from ..tune.synthetic import rig_contests
from .rig import make_rig

TOGETHER, PRODUCT, STREAMS = "qkv: together", "patches: product", "streams: library's choice"
INT8 = "int8 on tensorrt"


@dataclass
class Builder:
    """Stands for TensorRT's builder: the engine of a graph is the graph, with its weights inside.

    Attributes:
        spoil: Engines of graphs without the Clip before Q, K and V answer wrongly.
        refuse: Graphs whose patches are a product are refused.
        whole: Engines that were built for the bundle's profile.
    """

    spoil: bool = False
    refuse: bool = False
    whole: list[BuildOptions] = field(default_factory=list)

    def build(self, onnx_bytes: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        with written_out(onnx_bytes, options.external) as path:
            model = onnx.load(path)
        kinds = {node.op_type for node in model.graph.node}
        if self.refuse and "Conv" not in kinds:
            raise EngineError("no tactic")
        if spec.batch[0] != spec.batch[2]:
            self.whole.append(options)
            if self.spoil and "Clip" not in kinds:
                _spoil(model)
        name = "int8-saturated" if "Clip" in kinds else "int8-together"
        return Built(model.SerializeToString(), (LISTINGS / f"{name}.txt").read_text(), asked())


def _spoil(model: onnx.ModelProto) -> None:
    heads = [t for t in model.graph.initializer if t.name.startswith("head")]
    assert heads
    for head in heads:
        head.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(head), head.name))


@pytest.fixture
def builder(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    """TensorRT 10 on an emulated GPU of compute capability 8.9."""
    made = Builder()
    monkeypatch.setattr(
        TensorRT, "compile", lambda self, onnx, spec, options: made.build(onnx, spec, options)
    )
    monkeypatch.setattr(TensorRT, "build_problem", lambda self: None)
    rig = make_rig(monkeypatch, "10", Bundle.open(bundle_source).manifest.spec.max_batch)
    yield made
    assert not (problems := rig.problems()), problems


def tune(path: Path, *arguments: str) -> int:
    wishes = ["--backend", "tensorrt", "--precision", "int8"]
    return main(["tune", str(path), *wishes, *arguments])


def variant_of(path: Path) -> str:
    with Engine.load(path, "int8", "tensorrt") as engine:
        return engine.info.variant


def test_the_fastest_form_is_kept_and_used(
    builder: Builder,
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    digit_frames: np.ndarray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Engine.load(bundle_source, "int8", "tensorrt") as engine:
        expected = engine(digit_frames)
    contests = rig_contests(monkeypatch, {PRODUCT: 0.5})
    assert tune(bundle_source, "-v") == 0
    out = capsys.readouterr().out
    assert f"kept: {INT8} runs with {PRODUCT}" in out
    assert f"{INT8}, {PRODUCT}: " in out, "what it was estimated to take"
    assert contests[-1] == ("default", PRODUCT)
    built = len(builder.whole)
    assert built == 1 + 3, "the default, and the three of the least estimated cost"
    assert TOGETHER not in contests[0], "its plan has faults: the others come first"
    assert [options.max_aux_streams for options in builder.whole].count(None) == 1
    with Engine.load(bundle_source, "int8", "tensorrt") as engine:
        assert engine.info.variant == PRODUCT
        np.testing.assert_allclose(engine(digit_frames), expected, atol=0.2)
    assert len(builder.whole) == built, "the engine comes from the cache"


def test_the_kept_engine_is_the_one_that_is_inspected(
    builder: Builder, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {PRODUCT: 0.5})
    assert tune(bundle_source) == 0
    bundle = Bundle.open(bundle_source)
    assert f"{INT8}, tuned ({PRODUCT}), here" in read_all(bundle, "int8", "tensorrt")
    deployment = Deployment(bundle)
    (candidate,) = deployment.candidates("int8", "tensorrt")
    plan = find_plan(deployment, candidate)
    assert plan is not None
    assert plan.summary().unmet == ()


def test_a_form_that_answers_wrongly_is_never_kept(
    builder: Builder,
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vit_edge.runtime.tools.tune.run.MOST_FORMS", 9)
    builder.spoil = True
    contests = rig_contests(monkeypatch, {TOGETHER: 0.1})
    assert tune(bundle_source) == 0
    out = capsys.readouterr().out
    assert f"{INT8}, {TOGETHER}: wrong: logits are" in out
    assert not any(TOGETHER in contest for contest in contests)
    assert DeviceCache.of(Bundle.open(bundle_source).digest).read()[1] == {}
    assert variant_of(bundle_source) == ""


def test_a_form_that_the_builder_refuses_is_passed_over(
    builder: Builder, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.refuse = True
    contests = rig_contests(monkeypatch, {STREAMS: 0.5})
    assert tune(bundle_source) == 0
    assert PRODUCT not in contests[0]
    assert variant_of(bundle_source) == STREAMS


def test_an_engine_that_was_altered_is_not_used(
    builder: Builder,
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig_contests(monkeypatch, {PRODUCT: 0.5})
    assert tune(bundle_source) == 0
    cache = DeviceCache.of(Bundle.open(bundle_source).digest)
    key = f"{Candidate('int8', BACKENDS['tensorrt']).key}|{PRODUCT}"
    engine = cache.finding(key).engine
    assert engine is not None
    (cache.folder / engine.file).write_bytes(b"altered")
    with caplog.at_level(logging.WARNING):
        assert variant_of(bundle_source) == ""
    assert "its engine is missing or was altered; `vit-edge tune` finds another" in caplog.text


def test_forgetting_removes_the_engine(
    builder: Builder, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DeviceCache.of(Bundle.open(bundle_source).digest)
    Engine.load(bundle_source, "int8", "tensorrt").close()
    before = {path.name for path in cache.folder.iterdir()}
    rig_contests(monkeypatch, {PRODUCT: 0.5})
    assert tune(bundle_source) == 0
    assert len({path.name for path in cache.folder.iterdir()} - before) == 2, "engine and listing"
    assert tune(bundle_source, "--forget") == 0
    assert {path.name for path in cache.folder.iterdir()} == before
    assert variant_of(bundle_source) == ""


def test_building_the_default_leaves_the_kept_variant(
    builder: Builder, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {PRODUCT: 0.5})
    assert tune(bundle_source) == 0
    arguments = ["--target", "tensorrt", "--precision", "int8"]
    assert main(["build", str(bundle_source), *arguments]) == 0
    assert variant_of(bundle_source) == PRODUCT


def test_what_forms_need_is_said_where_it_is_missing(
    builder: Builder,
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [n for n in sys.modules if n.startswith("vit_edge.export.forms")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    rig_contests(monkeypatch, {})
    assert tune(bundle_source) == 0
    out = capsys.readouterr().out
    assert f"{INT8}: no other forms were tried: other forms of a graph need onnx_ir: " in out
    assert "pip install '.[export]'" in out
