from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import runtime.engine
from runtime import BackendError, Engine, EngineError, InputError, SelfCheckError
from runtime.backends import BACKENDS
from runtime.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from runtime.bundle import Bundle
from runtime.candidates import Candidate
from runtime.device_cache import DeviceCache

from ..concurrency import wrong_answers


def cache_of(bundle: Path) -> DeviceCache:
    return DeviceCache.of(Bundle.open(bundle).digest)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 10])
def test_any_number_of_frames_is_scored(
    bundle_source: Path, digit_frames: np.ndarray, count: int
) -> None:
    """The profile ends at 4 here: more are cut into batches."""
    with Engine.load(bundle_source, "fp32") as engine:
        scores = engine(digit_frames[:count])
        assert scores.shape == (count, 10)
        assert scores.dtype == np.float32
        single = np.concatenate([engine(digit_frames[[i]]) for i in range(count)])
    np.testing.assert_allclose(scores, single, atol=1e-5)


def test_frames_may_be_a_view(bundle_source: Path, digit_frames: np.ndarray) -> None:
    with Engine.load(bundle_source, "fp32") as engine:
        flipped = digit_frames[:, ::-1]
        np.testing.assert_allclose(engine(flipped), engine(flipped.copy()), atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), r"\[1, 8, 8, 3\]"),
        (np.zeros((8, 8, 1), np.uint8), r"\[8, 8, 1\]"),
        (np.zeros((0, 8, 8, 1), np.uint8), "N > 0"),
        (np.zeros((1, 8, 8, 1), np.float32), "float32"),
        ([[1]], "list"),
    ],
)
def test_wrong_frames_are_named(bundle_source: Path, frames: np.ndarray, named: str) -> None:
    with Engine.load(bundle_source) as engine, pytest.raises(InputError, match=named):
        engine(frames)


def test_a_closed_engine_says_so(bundle_source: Path, digit_frames: np.ndarray) -> None:
    engine = Engine.load(bundle_source)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(digit_frames)


def test_threads_share_an_engine(bundle_source: Path, digit_frames: np.ndarray) -> None:
    with Engine.load(bundle_source, "fp32") as engine:
        assert wrong_answers(engine, digit_frames, engine(digit_frames), rounds=50) == []


def test_info_says_what_runs_and_why(bundle_source: Path) -> None:
    with Engine.load(bundle_source) as engine:
        assert engine.info.backend in BACKENDS
        assert "not measured here yet" in engine.info.why
        assert engine.preprocess.shape == (8, 8, 1)


def test_the_fastest_that_was_measured_here_is_chosen(bundle_source: Path) -> None:
    cache, backend = cache_of(bundle_source), BACKENDS["onnxruntime"]
    for precision, milliseconds in (("fp16", 1.0), ("fp32", 2.0), ("int8", 3.0)):
        cache.store_latency(Candidate(precision, backend).key(), milliseconds)
    with Engine.load(bundle_source, backend="onnxruntime") as engine:
        assert engine.info.precision == "fp16"
        assert "1 ms" in engine.info.why


def test_golden_samples_are_checked_at_the_first_load_only(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []
    original = runtime.engine.require_golden

    def counted(scores, golden, graph, what):  # type: ignore[no-untyped-def]
        checks.append(what)
        return original(scores, golden, graph, what)

    monkeypatch.setattr(runtime.engine, "require_golden", counted)
    for _ in range(2):
        Engine.load(bundle_source, "int8", "onnxruntime").close()
    assert checks == ["int8 on onnxruntime"]


def test_an_engine_that_answers_wrongly_here_is_refused(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, images: run(self, images)[:, ::-1])
    with pytest.raises(SelfCheckError, match="golden"):
        Engine.load(bundle_source, "fp32", "onnxruntime")
    with pytest.raises(BackendError, match="golden"):
        Engine.load(bundle_source, backend="onnxruntime")


def test_a_refused_engine_falls_back_with_a_logged_reason(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = OnnxRuntime.open

    def refuse_int8(self, blob, *how):  # type: ignore[no-untyped-def]
        if b"QuantizeLinear" in blob:
            raise EngineError("no INT8 on this device")
        return opened(self, blob, *how)

    monkeypatch.setattr(OnnxRuntime, "open", refuse_int8)
    with (
        caplog.at_level(logging.WARNING),
        Engine.load(bundle_source, backend="onnxruntime") as engine,
    ):
        assert engine.info.precision == "fp32"
        assert "no INT8 on this device" in engine.info.why
    assert "int8 on onnxruntime is not used: no INT8 on this device" in caplog.text


def test_unknown_wishes_are_named(bundle_source: Path) -> None:
    with pytest.raises(InputError, match="no precision 'fp8'"):
        Engine.load(bundle_source, precision="fp8")
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        Engine.load(bundle_source, backend="tpu")


def test_a_missing_backend_says_how_to_get_it(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="pip install"):
        Engine.load(bundle_source, backend="onnxruntime")


def test_a_cache_that_cannot_be_written_is_done_without(
    bundle_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Engine.load(bundle_source, "fp32", "onnxruntime").close()


def test_an_altered_engine_in_the_cache_is_not_used(bundle_source: Path) -> None:
    cache = cache_of(bundle_source)
    cache.store_engine("key", b"engine")
    assert cache.engine("key") == b"engine"
    (path,) = cache.folder.glob("*.engine")
    path.write_bytes(b"other")
    assert cache.engine("key") is None


def test_a_damaged_cache_is_as_if_it_were_empty(bundle_source: Path) -> None:
    cache = cache_of(bundle_source)
    cache.mark_checked("key", 0.1)
    assert cache.is_checked("key")
    (cache.folder / "device.json").write_text("{")
    assert not cache.is_checked("key")
    cache.mark_checked("key", 0.1)
    assert cache.is_checked("key")


def test_an_unmeasured_backend_of_a_faster_kind_goes_before_measured_ones(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that was added after `compare` must not be passed over for the CPU."""
    from runtime.backends.tensorrt import TensorRT
    from runtime.engine import _rank

    monkeypatch.setattr(TensorRT, "run_problem", lambda self: None)
    monkeypatch.setattr(TensorRT, "version", lambda self: "10.99")
    monkeypatch.setattr(TensorRT, "device", lambda self: "a GPU")
    cpu, gpu = BACKENDS["onnxruntime"], BACKENDS["tensorrt"]
    candidates = [Candidate("fp16", gpu), Candidate("int8", cpu), Candidate("fp32", cpu)]
    cache = cache_of(bundle_source)
    cache.store_latency(candidates[2].key(), 1.0)
    assert [c for c, _ in _rank(candidates, cache, [])] == [
        candidates[0],
        candidates[2],
        candidates[1],
    ]
    cache.store_latency(candidates[0].key(), 5.0)
    assert _rank(candidates, cache, [])[0][0] == candidates[2]
