from __future__ import annotations

import logging
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vit_edge.runtime.deployment
import vit_edge.runtime.metrics
from vit_edge.runtime import BackendError, Engine, EngineError, ResourceError, SelfCheckError
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from vit_edge.runtime.backends.openvino import OpenVino
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.errors import engine_error, install_command
from vit_edge.runtime.golden import SAMPLES_AT_LOAD
from vit_edge.runtime.selection import LEVEL


def cache_of(bundle: Path) -> DeviceCache:
    return DeviceCache.of(Bundle.open(bundle).digest)


def key_of(precision: str, backend: str) -> str:
    return Candidate(precision, BACKENDS[backend]).key


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)


def test_the_first_load_measures_what_can_run_and_later_ones_remember(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []
    original = vit_edge.runtime.metrics.race
    monkeypatch.setattr(
        vit_edge.runtime.metrics,
        "race",
        lambda calls, budget: (measured.extend(calls), original(calls, budget))[1],
    )
    with Engine.load(bundle_source) as first:
        pass
    assert len(measured) == 6  # three precisions on two backends
    findings = cache_of(bundle_source).findings()
    assert len(findings) == 6
    level = [
        key
        for key, finding in findings.items()
        if finding.latency_interval_ms
        and finding.latency_interval_ms[0]
        <= LEVEL * min(other.latency_ms or 0 for other in findings.values())
    ]
    assert key_of(first.info.precision, first.info.backend) in level
    assert "fastest measured here at batch 1" in first.info.why
    assert "tensorrt is not installed" in first.info.not_run["tensorrt"]
    with Engine.load(bundle_source) as second:
        assert second.info == first.info
    assert len(measured) == 6


def test_what_was_not_measured_is_tried_in_the_order_of_the_manifest(bundle_source: Path) -> None:
    bundle = Bundle.open(bundle_source)
    for order in (["fp32", "int8", "fp16"], ["fp16", "fp32", "int8"]):
        entries = {}
        for name, entry in bundle.manifest.precisions.items():
            graphs = {k: replace(g, rank=order.index(name)) for k, g in entry.graphs.items()}
            entries[name] = replace(entry, graphs=graphs)
        ranked = replace(bundle, manifest=replace(bundle.manifest, precisions=entries))
        candidates = Deployment(ranked).candidates(backend="openvino")
        assert [candidate.precision for candidate in candidates] == order


@pytest.mark.parametrize("fastest", ["fp16", "fp32", "int8"])
def test_the_fastest_that_was_measured_here_is_chosen(bundle_source: Path, fastest: str) -> None:
    cache = cache_of(bundle_source)
    for precision in ("fp16", "fp32", "int8"):
        cache.store_latency(key_of(precision, "onnxruntime"), 1.0 if precision == fastest else 2.0)
    with Engine.load(bundle_source, backend="onnxruntime") as engine:
        assert engine.info.precision == fastest
        assert "1 ms, then " in engine.info.why


@pytest.mark.parametrize("refused", ["fp16", "fp32", "int8"])
def test_where_nothing_was_measured_what_was_refused_comes_last(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    cache = cache_of(bundle_source)
    monkeypatch.setattr(DeviceCache, "problem", lambda self: "no space left")
    cache.mark_refused(key_of(refused, "onnxruntime"), "it answered wrongly")
    with Engine.load(bundle_source, backend="onnxruntime") as engine:
        assert engine.info.precision != refused
    assert cache.finding(key_of(refused, "onnxruntime")).refused, "it was tried nevertheless"


def test_one_wish_is_not_measured(bundle_source: Path) -> None:
    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        assert "the only one" in engine.info.why
    (finding,) = cache_of(bundle_source).findings().values()
    assert finding.latency_ms is None
    assert finding.rms_error is not None


def test_golden_samples_are_checked_at_the_first_load_only(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[int | None] = []
    original = vit_edge.runtime.deployment.run_golden

    def counted(infer, golden, outputs, count):  # type: ignore[no-untyped-def]
        checks.append(count)
        return original(infer, golden, outputs, count)

    monkeypatch.setattr(vit_edge.runtime.deployment, "run_golden", counted)
    for _ in range(2):
        Engine.load(bundle_source, "int8", "onnxruntime").close()
    assert checks == [SAMPLES_AT_LOAD]


def test_an_engine_that_answers_wrongly_here_is_refused(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, images: run(self, images)[:, ::-1])
    with pytest.raises(SelfCheckError, match="golden"):
        Engine.load(bundle_source, "fp32", "onnxruntime")
    with pytest.raises(BackendError, match="golden"):
        Engine.load(bundle_source, backend="onnxruntime")
    with Engine.load(bundle_source) as engine:
        assert engine.info.backend == "openvino"
        assert "int8 on onnxruntime was refused before" in engine.info.why


def test_a_refused_engine_falls_back_with_a_logged_reason(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = OnnxRuntime.open

    def refuse_int8(self, blob, *others):  # type: ignore[no-untyped-def]
        if b"QuantizeLinear" in blob:
            raise EngineError("no INT8 on this device")
        return opened(self, blob, *others)

    monkeypatch.setattr(OnnxRuntime, "open", refuse_int8)
    for said in ("is not used: ", "was refused before (`vit-edge check` tries again): "):
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING),
            Engine.load(bundle_source, backend="onnxruntime") as engine,
        ):
            assert engine.info.precision in ("fp32", "fp16")
            assert "no INT8 on this device" in engine.info.why
        assert f"int8 on onnxruntime {said}no INT8 on this device" in caplog.text


def test_one_that_fails_after_it_was_measured_gives_way(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when another program holds the GPU's memory; it is tried again at the next load."""
    cache = cache_of(bundle_source)
    for backend, milliseconds in (("openvino", 1.0), ("onnxruntime", 2.0)):
        cache.store_latency(key_of("fp32", backend), milliseconds)

    def full(self, *others):  # type: ignore[no-untyped-def]
        raise EngineError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(OpenVino, "open", full)
        with Engine.load(bundle_source, "fp32") as engine:
            assert engine.info.backend == "onnxruntime"
    assert "fp32 on openvino is not used: out of memory" in caplog.text
    with Engine.load(bundle_source, "fp32") as engine:
        assert engine.info.backend == "openvino"


def test_a_refusal_that_may_pass_is_not_remembered(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that another program holds today says nothing about tomorrow."""
    key = key_of("fp32", "openvino")
    opened = OpenVino.open
    for error, remembered in (
        (engine_error("bad allocation"), False),
        (EngineError("no such operator"), True),
    ):

        def refuse(self, *others, error=error):  # type: ignore[no-untyped-def]
            raise error

        monkeypatch.setattr(OpenVino, "open", refuse)
        with Engine.load(bundle_source, "fp32") as engine:
            assert engine.info.backend == "onnxruntime"
            assert f"fp32 on openvino is not used: {error}" in engine.info.why
        finding = cache_of(bundle_source).finding(key)
        assert (finding.refused is not None) == remembered
        monkeypatch.setattr(OpenVino, "open", opened)
        if not remembered:
            Engine.load(bundle_source, "fp32").close()
            assert cache_of(bundle_source).finding(key).latency_ms is not None
            cache_of(bundle_source).store_engine(key, b"")  # forgets what is known


@pytest.mark.parametrize(
    "message",
    [
        "cudaMalloc failed: cudaErrorMemoryAllocation (2)",
        "CUDA failure 2: out of memory ; GPU=0",
        "Failed to allocate memory for requested buffer of size 1024",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "the GPU has not enough memory for it",
        "[allocate] Error Code 2: OutOfMemory (no further information)",
        "memory allocation failed",
    ],
)
def test_a_shortage_is_told_from_other_failures(message: str) -> None:
    assert isinstance(engine_error(message), ResourceError)
    assert isinstance(engine_error("it failed", ResourceError("busy")), ResourceError)
    for lasting in (
        "operator Foo is not implemented",
        "cudaMalloc failed: cudaErrorIllegalAddress (700)",
        "cudaHostAlloc failed: cudaErrorMpsClientTerminated (810)",
    ):
        assert not isinstance(engine_error(lasting, EngineError("it failed")), ResourceError)


def test_a_backend_that_came_later_is_measured_too(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU or a library that was added must not be passed over for what is known."""
    with monkeypatch.context() as patch:
        without(patch, "openvino")
        with Engine.load(bundle_source, "fp32") as engine:
            assert engine.info.not_run["openvino"].startswith("OpenVINO is not installed")
    cache_of(bundle_source).store_latency(key_of("fp32", "onnxruntime"), 1e9)
    with Engine.load(bundle_source, "fp32") as engine:
        assert engine.info.backend == "openvino"


def test_without_any_backend_each_is_named_with_its_remedy(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "onnxruntime")
    without(monkeypatch, "openvino")
    with pytest.raises(BackendError) as caught:
        Engine.load(bundle_source)
    for extra in ("onnxruntime", "openvino"):
        assert install_command(extra) in str(caught.value)


def test_a_cache_that_cannot_be_written_is_said_once_and_the_order_of_the_export_decides(
    bundle_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Measuring at every start would cost more than it gains."""
    monkeypatch.setattr(vit_edge.runtime.metrics, "race", lambda *a: pytest.fail("measured"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = Deployment(Bundle.open(bundle_source)).candidates(backend="onnxruntime")[0]
    for _ in range(2):
        with Engine.load(bundle_source, backend="onnxruntime") as engine:
            assert engine.info.precision == first.precision
            assert "first in the order that the export measured" in engine.info.why
            assert "cannot be written (Not a directory)" in engine.info.why
    assert caplog.text.count("cannot be written") == 1


def test_a_cache_on_a_read_only_disk_is_read(bundle_source: Path) -> None:
    """A fleet may share what one device has measured."""
    cache = cache_of(bundle_source)
    for precision, milliseconds in (("fp16", 1.0), ("fp32", 2.0)):
        cache.store_latency(key_of(precision, "onnxruntime"), milliseconds)
    with without_room(cache.folder), Engine.load(bundle_source, backend="onnxruntime") as engine:
        assert engine.info.precision == "fp16"
        assert "fastest measured here" in engine.info.why


@contextmanager
def without_room(folder: Path) -> Iterator[None]:
    """Lets every file of the folder be opened and none grow, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        pytest.param({"int8": (1.0, 1.0, 6e-3), "fp32": (1.5, 1.3, 1e-7)}, "int8", id="faster"),
        pytest.param({"int8": (1.0, 1.0, 6e-3), "fp32": (1.2, 0.95, 1e-7)}, "fp32", id="noise"),
        pytest.param({"int8": (1.0, 1.0, 6e-3), "fp32": (1.01, 1.01, 1e-7)}, "fp32", id="level"),
        pytest.param({"fp32": (1.0, 1.0, 1e-7), "int8": (1.1, 0.9, 6e-3)}, "fp32", id="first"),
        pytest.param(
            {"int8": (1.0, 1.0, 6e-3), "fp16": (1.1, 1.0, 2e-4), "fp32": (2.0, 1.9, 1e-7)},
            "fp16",
            id="the-most-faithful-of-those-that-are-level",
        ),
    ],
)
def test_within_noise_the_nearer_answers_win(
    bundle_source: Path, rows: dict[str, tuple[float, float, float]], chosen: str
) -> None:
    """Repeated measurements must not choose one day this and one day that."""
    cache = cache_of(bundle_source)
    for precision in ("fp32", "fp16", "int8"):
        latency, low, error = rows.get(precision, (9.0, 9.0, 1e-7))
        key = key_of(precision, "onnxruntime")
        cache.mark_right(key, error)
        cache.store_latency(key, latency, (low, 2 * latency - low))
    with Engine.load(bundle_source, backend="onnxruntime") as engine:
        assert engine.info.precision == chosen


def test_the_answers_are_those_of_the_chosen_engine(
    bundle_source: Path, digit_frames: np.ndarray
) -> None:
    with Engine.load(bundle_source) as engine:
        chosen = engine(digit_frames)
        with Engine.load(bundle_source, engine.info.precision, engine.info.backend) as asked:
            np.testing.assert_array_equal(asked(digit_frames), chosen)
