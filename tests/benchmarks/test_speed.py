"""The parts of `make bench` that compute: rounds, intervals, verdicts, tables, the probe."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.speed.contenders import CONTENDERS, QUICK, REFERENCE
from benchmarks.speed.intervals import latency, lead
from benchmarks.speed.measure import Effort, Entry, merge, rotate
from benchmarks.speed.openers import OPENERS, Job, normalise
from benchmarks.speed.peak import Peak, Peaks, better, measure_peaks
from benchmarks.speed.process import RefusedError, WorkerProcess
from benchmarks.speed.subject import macs
from benchmarks.speed.tables import markdown
from benchmarks.speed.verdicts import best_peer, lines, verdicts
from benchmarks.speed.worker import time_round
from vit_edge.runtime.errors import InputError
from vit_edge.vit.preprocessing import normalise as torch_normalise
from vit_edge.vit.variants import VARIANTS, find_variant

TEST_VIT = "vit_test_patch8_32"


def rounds(milliseconds: float, seed: int = 0, count: int = 15) -> list[list[float]]:
    noise = np.random.default_rng(seed).lognormal(0, 0.02, (count, 9))
    return (milliseconds * noise).tolist()


def row(name: str, type_: str, ms: float, cosine: float = 1.0, ours: bool = False) -> Any:
    timed = rounds(ms, len(name))
    return {
        "contender": name, "type": type_, "is_ours": ours, "problem": None,
        "accuracy": {"cosine": cosine, "agreement": 1.0},
        "batches": {"1": vars(latency(timed)) | {"rounds_ms": [np.median(r) for r in timed]}},
    }  # fmt: skip


REPORT: dict[str, Any] = {
    "machine": {
        "cpu": "a CPU", "threads": 2, "date": "2026-01-02T00:00:00", "libraries": {"torch": "1"},
        "environments": {"nncf": ["nncf==3", "onnx==1"], "modelopt": ["onnx==1"]},
        "load": [0.1, 0, 0], "load_after": [2.0, 0, 0],
    },
    "peaks": Peaks({"fp32": Peak("FMA", 50, 100), "bf16": None, "int8": None}).to_json(),
    "models": [
        {
            "model": "vit_tiny_patch16_224",
            "rows": [
                row("ours fp32", "fp32", 20, ours=True),
                row("peer fp32", "fp32", 30),
                row("slow fp32", "fp32", 90),
                row("ours int8", "int8", 10, 0.999, ours=True),
                row("wrong int8", "int8", 5, 0.5),
                row("right int8", "int8", 9, 0.995),
                row("none", "bf16", 1) | {"problem": "no bf16 here", "batches": {}},
            ],
        }
    ],
}  # fmt: skip
MODEL = REPORT["models"][0]


def test_a_round_leaves_the_call_out_that_warms_up_unless_it_fills_the_round() -> None:
    ticks = iter([0, 9_000_000, 9_000_000, 12_000_000, 12_000_000, 15_000_000])
    assert time_round(lambda: None, 0.014, lambda: next(ticks)) == [3.0, 3.0]
    ticks = iter([0, 50_000_000])
    assert time_round(lambda: None, 0.05, lambda: next(ticks)) == [50.0]


def test_latency_is_the_median_of_rounds_inside_its_interval() -> None:
    summary = latency([[1.0, 2.0, 9.0]] * 5 + [[4.0], [4.0]])
    assert summary.p50_ms == 2.0
    assert summary.low_ms == 2.0
    assert summary.high_ms == 4.0
    assert summary.p90_ms == 9.0


def test_drift_that_meets_both_does_not_hide_who_is_faster() -> None:
    drift = np.linspace(1, 3, 12)
    assert lead(list(10 * drift), list(11 * drift)).verdict == "ahead"
    assert lead(list(11 * drift), list(10 * drift)).verdict == "behind"
    same = [float(np.median(r)) for r in rounds(10, 1)]
    assert lead(same, [float(np.median(r)) for r in rounds(10, 2)]).verdict == "level"
    with pytest.raises(ValueError, match="12 rounds cannot be compared with 3"):
        lead(list(drift), [1.0, 2.0, 3.0])


def test_a_peer_that_is_fast_and_wrong_does_not_count() -> None:
    best = best_peer(MODEL["rows"], "1", "int8")
    assert best is not None
    assert best["contender"] == "right int8"
    by_type = {v.type: v for v in verdicts(MODEL, "1")}
    assert set(by_type) == {"fp32", "int8"}
    assert by_type["fp32"].lead.verdict == "ahead"
    assert by_type["fp32"].lead.ratio == pytest.approx(1.5, rel=0.03)
    assert (by_type["int8"].peer, by_type["int8"].lead.verdict) == ("right int8", "behind")


def test_the_share_of_the_peak_is_of_the_rows_own_type() -> None:
    peaks = Peaks.from_json(REPORT["peaks"])
    shares = {line.name: line.peak_share for line in lines(MODEL, "1", peaks)}
    expected = macs(find_variant("vit_tiny_patch16_224").config) / 20e-3 / 100e9
    assert shares["ours fp32"] == pytest.approx(expected, rel=0.03)
    assert shares["ours int8"] is None


def test_tables_say_who_is_ours_who_does_not_count_and_who_was_refused() -> None:
    tables = markdown(REPORT)
    assert "| **ours fp32** | fp32 |" in tables
    assert "0.50000 (does not count)" in tables
    assert "- none: no bf16 here" in tables
    assert "torch 1; in environments of their own: nncf==3, onnx==1." in tables
    with pytest.raises(InputError, match="it has no peaks, models"):
        markdown({"machine": {}})


def test_multiply_adds_are_those_that_others_count() -> None:
    """Compares with DeiT's paper (arXiv 2012.12877): 1.3, 4.6 and 17.6 billion. PyTorch's
    FlopCounterMode counts twice 1,942,400 for the test size, with attention as plain products.
    """
    counted = {name: macs(variant.config) for name, variant in VARIANTS.items()}
    assert counted[TEST_VIT] == 1_942_400
    sizes = [counted[f"deit_{size}_patch16_224"] / 1e9 for size in ("tiny", "small", "base")]
    assert [round(size, 1) for size in sizes] == [1.3, 4.6, 17.6]


def test_peers_get_what_pytorch_users_feed_their_models() -> None:
    preprocess = find_variant("deit_tiny_patch16_224").preprocess
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    ours = normalise(images, "deit_tiny_patch16_224")
    np.testing.assert_allclose(ours, torch_normalise(images, preprocess).numpy(), atol=1e-5)


def test_every_contender_can_be_opened_by_somebody_and_has_a_name_of_its_own() -> None:
    assert {c.opener for c in CONTENDERS} == set(OPENERS)
    assert len({c.slug for c in CONTENDERS}) == len(CONTENDERS)
    assert REFERENCE in {c.name for c in QUICK}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_probe_knows_int8_as_faster_than_fp32(tmp_path: Path) -> None:
    peaks = measure_peaks(1, tmp_path, seconds=0.01)
    assert peaks.problem is None
    assert Peaks.from_json(json.loads(json.dumps(peaks.to_json()))) == peaks
    fp32, int8 = peaks.by_type["fp32"], peaks.by_type["int8"]
    if fp32 and int8:
        assert int8.core_gmacs > fp32.core_gmacs > 0.1


def test_the_better_of_two_peaks_is_kept_type_by_type() -> None:
    a = Peaks({"fp32": Peak("FMA", 1, 9), "bf16": None})
    b = Peaks({"fp32": Peak("FMA", 2, 3), "bf16": None})
    assert better(a, b).by_type == {"fp32": Peak("FMA", 2, 9), "bf16": None}
    assert better(Peaks({}, "no compiler"), b) == b


class Answers:
    """A process that answers with its number of milliseconds, and refuses from a turn on."""

    def __init__(self, ms: float, refuses_at: int, turns: list[tuple[float, int]]) -> None:
        self._ms, self._refuses_at, self._turns = ms, refuses_at, turns

    def ask(self, limit_s: float, do: str, batch: int, seconds: float) -> dict[str, Any]:
        self._turns.append((self._ms, batch))
        if sum(ms == self._ms for ms, _ in self._turns) > self._refuses_at:
            raise RefusedError("out of memory")
        return {"ms": [self._ms * batch]}


def test_all_take_turns_and_one_that_fails_half_way_has_no_numbers() -> None:
    turns: list[tuple[float, int]] = []
    probes: list[int] = []
    entries = [
        Entry(contender, None, Answers(ms, refuses_at, turns), {1: [], 8: []})  # type: ignore[arg-type]
        for contender, ms, refuses_at in zip(
            CONTENDERS[:3], (1.0, 2.0, 3.0), (99, 3, 99), strict=True
        )
    ]
    rotate(
        entries, Effort((1, 8), rounds=4, round_s=0.0), lambda: probes.append(1), lambda d, t: None
    )
    assert len(probes) == 4
    assert entries[0].rounds == {1: [[1.0]] * 4, 8: [[8.0]] * 4}
    assert entries[1].rounds == {1: [], 8: []}
    assert entries[1].problem == "out of memory"
    assert entries[2].to_json()["batches"]["8"]["rounds_ms"] == [24.0] * 4
    assert len(turns) == 2 * 8 + 4
    assert turns[:6] != turns[6:12]


def test_numbers_without_accuracy_are_not_kept() -> None:
    right = {"cosine": 1.0, "agreement": 1.0}
    first, last = Entry(CONTENDERS[0], None, None, {1: [[2.0]]}), {8: [[9.0]]}
    both = merge([first, Entry(CONTENDERS[0], None, None, last, accuracy=right)])
    assert both.rounds == {1: [[2.0]], 8: [[9.0]]}
    assert both.accuracy == right
    failed = merge([first, Entry(CONTENDERS[0], "too large", None, {8: []})])
    assert failed.rounds == {1: [], 8: []}
    assert failed.problem == "too large"


def write_average(file: Path) -> None:
    """A model of ViTs' shapes: the mean of each channel for logits."""
    shape = ["batch", 3, 32, 32]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    opset = helper.make_opsetid("", 20)
    graph = helper.make_graph(nodes, "average", [images], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), file)


def test_a_worker_times_what_it_opened_and_says_what_it_refuses(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "evaluation.npy", images)
    model, logits = tmp_path / "model.onnx", tmp_path / "logits.npy"
    write_average(model)
    job = Job(TEST_VIT, str(tmp_path), "onnx_in_onnxruntime", "", str(model), 1)
    with WorkerProcess(Path(sys.executable), job, tmp_path / "log", tmp_path) as worker:
        worker.ask(60, do="open", batch=2)
        assert min(worker.ask(60, do="time", batch=2, seconds=0.01)["ms"]) > 0
        worker.ask(60, do="logits", batch=2, file=str(logits))
        expected = normalise(images, TEST_VIT).mean(axis=(2, 3))
        np.testing.assert_allclose(np.load(logits), expected, atol=1e-5)
        with pytest.raises(RefusedError, match="KeyError: 7"):
            worker.ask(60, do="time", batch=7, seconds=0.01)
        assert worker.memory_mib() > 10
        worker._process.kill()
        with pytest.raises(RefusedError, match="ended with status -9"):
            worker.ask(60, do="time", batch=2, seconds=0.01)
