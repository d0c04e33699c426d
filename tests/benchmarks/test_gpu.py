"""The benchmark of GPUs, with this CPU as the card: real engines, real PyTorch, real times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.card import Card, find_gpu, read_state
from benchmarks.gpu import Job, Result, Row, main, measure, plan_batches, run, show, write
from benchmarks.gpu_contenders import WAYS, Contender, config_of, engines, pytorch
from benchmarks.latency import Run, interleave, medians
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import EngineError
from vit_edge.vit.variants import find_variant

CPU = Card("Some CPU, 2 cores", "cpu", lambda: None, lambda: {"clocks.sm": "3000 MHz"})


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keeps PyTorch's threads from waiting for ONNX Runtime's, which spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contender(name: str, seconds: float, most: int = 1 << 30) -> Contender:
    """Sleeps; fails above a batch size."""

    def start(stack: ExitStack) -> Run:
        def call(frames: np.ndarray) -> None:
            if len(frames) > most:
                raise MemoryError("out of memory\nand more")
            time.sleep(seconds)

        return call

    return Contender("fp16", name, start)


def test_ours_and_pytorch_run_the_same_frames(bundle_source: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_source)
    result = run(bundle, CPU, Job((4, 8), 1, ("onnxruntime", "tensorrt-lean"), ("pytorch",)))
    times = {row.name: row for row in result.rows if row.batch == 4 and not row.error}
    assert {"fp32 onnxruntime", "int8 onnxruntime", "fp32 pytorch", "bf16 pytorch"} <= times.keys()
    row = times["fp32 onnxruntime"]
    assert row.p50_ms is not None
    assert row.p90_ms is not None
    assert 0 < row.p50_ms <= row.p90_ms
    assert row.images_per_s == pytest.approx(4000 / row.p50_ms)
    assert row.calls >= 1
    assert result.absent["batch 8"] == "the bundle's engines are for up to 4 images"
    assert "tensorrt_lean is not installed" in result.absent["tensorrt-lean"]
    assert [state["clocks.sm"] for state in result.states] == ["3000 MHz"] * 2
    assert set(result.versions) == {"onnxruntime", "torch"}
    file = write(result, tmp_path, CPU.slug)
    assert file.name == "gpu-some-cpu-2-cores.json"
    assert json.loads(file.read_text())["rows"][0]["precision"] == result.rows[0].precision


def test_pytorch_is_the_bundles_model(bundle_source: Path, digit_frames: np.ndarray) -> None:
    """Compares architectures, in each type: the same work."""
    bundle = Bundle.open(bundle_source)
    assert config_of(bundle.manifest) == find_variant("vit_digits").config
    torch.manual_seed(0)
    by_name = {c.name: c for c in pytorch(bundle.manifest, CPU, WAYS)}
    assert len(by_name) == 6
    with ExitStack() as stack:
        exact = by_name["fp32 pytorch"].start(stack)(digit_frames)
    torch.manual_seed(0)
    with ExitStack() as stack:
        half = by_name["bf16 pytorch"].start(stack)(digit_frames)
    assert isinstance(exact, np.ndarray)
    assert exact.shape == (10, 10)
    assert exact.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.05 * np.abs(exact).max())


def test_frames_are_normalised_as_in_training(bundle_source: Path) -> None:
    from benchmarks.gpu_contenders import _Classifier

    manifest = Bundle.open(bundle_source).manifest
    seen: list[torch.Tensor] = []
    classifier = _Classifier(lambda pixels: seen.append(pixels) or pixels, manifest)  # type: ignore[arg-type,func-returns-value]
    frames = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1) * 4
    classifier(frames)
    expected = (frames.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(seen[0], expected)


def test_what_fails_is_a_row_and_stops_nothing() -> None:
    def broken(stack: ExitStack) -> Run:
        raise EngineError("no tactic")

    contenders = [
        contender("quick", 0.001),
        contender("small", 0.001, most=1),
        Contender("fp16", "broken", broken),
    ]
    rows, _ = measure(contenders, np.zeros((2, 1, 1, 1), np.uint8), [1, 2], CPU, 2)
    errors = {(row.runtime, row.batch): row.error for row in rows}
    assert errors == {
        ("quick", 1): "",
        ("quick", 2): "",
        ("small", 1): "",
        ("small", 2): "out of memory",
        ("broken", 1): "no tactic",
        ("broken", 2): "no tactic",
    }


def test_all_take_turns_in_every_round() -> None:
    order: list[str] = []
    runs: dict[str, Run] = {
        name: lambda image, name=name: (order.append(name), time.sleep(0.03))  # type: ignore[misc]
        for name in ("a", "b")
    }
    times = interleave(runs, np.zeros(1, np.uint8), 3)
    assert order[-6:] == ["a", "b"] * 3
    assert [len(calls) for calls in times["a"]] == [1, 1, 1]
    assert medians({"a": runs["a"]}, np.zeros(1, np.uint8))["a"] == pytest.approx(30, rel=0.5)


def test_batches_beyond_the_profile_are_left_out() -> None:
    assert plan_batches((256, 1, 8, 8), 32) == ([1, 8], [256])


def test_the_table_compares_with_the_type_that_is_replaced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = (
        Row("int8", "tensorrt", 8, 10, 1.0, 1.1, 8000.0),
        Row("fp16", "tensorrt", 8, 10, 2.0, 2.1, 4000.0),
        Row("fp16", "pytorch", 8, 10, 5.0, 5.1, 1600.0),
        Row("bf16", "tensorrt", 8, error="no kernel"),
    )
    show(Result("Card", "vit", {}, {}, (), rows, {"tensorrt-rtx": "not installed"}))
    out = capsys.readouterr().out
    assert "Card, batch 8" in out
    assert "5.00x" in out
    assert "2.50x" in out
    assert "no kernel" in out
    assert "not run: tensorrt-rtx: not installed" in out


def test_engines_that_cannot_run_are_told_of(bundle_source: Path) -> None:
    contenders, absent = engines(Bundle.open(bundle_source), ("onnxruntime", "tensorrt-lean"))
    assert {c.runtime for c in contenders} == {"onnxruntime"}
    assert absent.keys() == {"tensorrt-lean"}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (
            "580.95, Enabled, 1980 MHz, 1980 MHz, 2619 MHz, 120 W, 700 W, 41",
            {"driver_version": "580.95", "clocks.sm": "1980 MHz", "temperature.gpu": "41"},
        ),
        ("not supported", {}),
    ],
)
def test_clocks_power_and_driver_are_noted(
    tmp_path: Path, answer: str, state: dict[str, str]
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho '{answer}'\n")
    script.chmod(0o755)
    fields = read_state(str(script))
    assert {name: fields[name] for name in state} == state
    assert read_state(str(tmp_path / "nothing")) == {}


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert main() == 2
    assert "needs one" in capsys.readouterr().err
