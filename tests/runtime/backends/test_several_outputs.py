"""A model of several outputs on every backend: by name, in shape, in calls and streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime.backends import BACKENDS, Session
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine, EngineInfo
from vit_edge.runtime.outputs import unpack

from .rig import Rig
from .tiny import MAX_BATCH, SEVERAL, graph_of_several, tiny_frames, values_of_several


def assert_right(values: Any, frames: np.ndarray) -> None:
    expected = values_of_several(frames)
    assert list(values) == list(expected)
    for name, array in expected.items():
        assert values[name].shape == array.shape
        np.testing.assert_array_equal(values[name], array)


def engine_of(session: Session, bundle_source: Path) -> Engine:
    manifest = Bundle.open(bundle_source).manifest
    object.__setattr__(manifest, "spec", SEVERAL)  # no bundle is written for it
    return Engine(session, manifest, EngineInfo("fp32", "b", "1", "here", "a test"))


@pytest.fixture(params=["onnxruntime", "openvino"])
def cpu_session(request: pytest.FixtureRequest) -> Session:
    return BACKENDS[request.param].open(graph_of_several(), SEVERAL)


def check_calls_and_streams(engine: Engine) -> None:
    for size in (1, 3, MAX_BATCH, 2 * MAX_BATCH + 1):
        frames = tiny_frames(size, size)
        assert_right(engine(frames), frames)
    items = [tiny_frames(n, n) for n in (1, 2, 2 * MAX_BATCH + 3, 1)]
    for values, frames in zip(engine.stream(items), items, strict=True):
        assert_right(values, frames)
    singles = tiny_frames(4)
    for values, frame in zip(engine.stream(iter(singles)), singles, strict=True):
        assert_right({name: value[None] for name, value in values.items()}, frame[None])


def test_outputs_come_by_name_on_cpus(cpu_session: Session, bundle_source: Path) -> None:
    with engine_of(cpu_session, bundle_source) as engine:
        check_calls_and_streams(engine)


def test_outputs_come_by_name_on_gpus(rig: Rig, bundle_source: Path) -> None:
    with engine_of(rig.open(graph_of_several(), SEVERAL), bundle_source) as engine:
        check_calls_and_streams(engine)
        frames = tiny_frames(3)
        assert_right(engine(rig.on_gpu(frames)), frames)


def test_one_map_comes_as_an_array(bundle_source: Path) -> None:
    spec = replace(SEVERAL, outputs=SEVERAL.outputs[1:2])
    session = BACKENDS["onnxruntime"].open(graph_of_several(), spec)
    engine = engine_of(session, bundle_source)
    engine._spec, engine.outputs, engine.output = spec, spec.outputs, "depth"
    frames = tiny_frames(2)
    np.testing.assert_array_equal(engine(frames), values_of_several(frames)["depth"])
    (first, _) = engine.stream(frames)
    np.testing.assert_array_equal(first, values_of_several(frames)["depth"][0])


def test_unpacking_copies_nothing() -> None:
    packed = np.arange(44, dtype=np.float32).reshape(2, 22)
    views = unpack(packed, SEVERAL.outputs)
    assert [view.shape for view in views.values()] == [(2, 5), (2, 4, 4), (2,)]
    assert all(np.shares_memory(view, packed) for view in views.values())
