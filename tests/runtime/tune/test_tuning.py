"""What `vit-edge tune` keeps, and that it runs from then on."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime import Engine
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from vit_edge.runtime.backends.openvino import OpenVino
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.errors import BackendError, EngineError, InputError
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.compare.run import compare_bundle
from vit_edge.runtime.tools.measure.rounds import Contest, Schedule
from vit_edge.runtime.tools.tune.run import Tuning, tune_bundle

from .synthetic import rig_contests

FASTER, SLOWER = "memory not laid out ahead", "extended optimisation"
"""Variants of ONNX Runtime that are there on every machine."""
NAME = "fp32 on onnxruntime"


def tune(
    path: Path,
    *,
    backend: str = "onnxruntime",
    precisions: Sequence[str] = ("fp32",),
    batches: Sequence[int] = (1,),
) -> Tuning:
    return tune_bundle(Bundle.open(path), batches, 1.0, precisions, (backend,))


def statuses(tuning: Tuning) -> dict[str, str]:
    return {row.variant: row.status for row in tuning.rows}


def loaded(path: Path, backend: str = "onnxruntime") -> str:
    """The variant that an application gets."""
    with Engine.load(path, "fp32", backend) as engine:
        return engine.info.variant


def cache_of(path: Path) -> DeviceCache:
    return DeviceCache.of(Bundle.open(path).digest)


def test_the_fastest_is_kept_and_used_from_then_on(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, digit_frames: np.ndarray
) -> None:
    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        expected = engine(digit_frames)
        assert engine.info.variant == ""
    contests = rig_contests(monkeypatch, {FASTER: 0.5, SLOWER: 2.0})
    tuning = tune(bundle_source)
    assert tuning.kept == {NAME: FASTER}
    assert tuning.good
    assert statuses(tuning)[FASTER] == "kept"
    assert statuses(tuning)[SLOWER] == "slower"
    assert contests[-1] == ("default", FASTER), "it is measured anew before it is kept"
    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        np.testing.assert_allclose(engine(digit_frames), expected, atol=1e-4)
        assert engine.info.variant == FASTER
        assert f"tuned: {FASTER}" in str(engine.info)
        assert f"tuned here ({FASTER}), 2 times as fast as untuned" in engine.info.why


def test_the_settings_are_those_of_the_session(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    deployment = Deployment(Bundle.open(bundle_source))
    (candidate,) = deployment.candidates("fp32", "onnxruntime")
    with closing(deployment.open(candidate)) as session:
        assert isinstance(session, OnnxRuntimeSession)
        assert session._session.get_session_options().enable_mem_pattern is False


def test_variants_that_are_faster_are_tried_together(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = f"{FASTER}, {SLOWER}"
    contests = rig_contests(monkeypatch, {FASTER: 0.5, SLOWER: 0.6, both: 0.4})
    assert tune(bundle_source).kept == {NAME: both}
    assert contests[-1] == ("default", FASTER, SLOWER, both)
    assert loaded(bundle_source) == both
    (kept,) = cache_of(bundle_source).read()[1].values()
    assert kept.settings == {"memory_pattern": False, "optimisation": "extended"}


def test_of_variants_that_are_level_the_simplest_is_kept(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = f"{FASTER}, {SLOWER}"
    rig_contests(monkeypatch, {FASTER: 0.5, SLOWER: 0.6, both: 0.495})
    tuning = tune(bundle_source)
    assert tuning.kept == {NAME: FASTER}
    assert statuses(tuning)[both] == f"level with {FASTER}"
    assert statuses(tuning)[SLOWER] == f"behind {FASTER}"


def test_variants_that_memory_does_not_hold_at_once_run_one_after_the_other(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_edge.runtime.tools.tune.trials.available_memory", lambda: 0)
    contests = rig_contests(monkeypatch, {FASTER: 0.5})
    assert tune(bundle_source).kept == {NAME: FASTER}
    assert {("default", FASTER), ("default", SLOWER)} <= set(contests)
    assert all(len(contest) == 2 for contest in contests)


def test_a_default_that_fails_while_it_is_measured_is_said(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vit_edge.runtime.tools.tune.trials.measure_rounds",
        lambda calls, *others: Contest({}, dict.fromkeys(calls, "the device is gone")),
    )
    tuning = tune(bundle_source)
    assert not tuning.good
    assert statuses(tuning) == {"default": "failed: the device is gone"}


def test_what_was_luck_is_not_kept(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5}, {FASTER: 1.0})
    tuning = tune(bundle_source)
    assert tuning.kept == {NAME: None}
    assert statuses(tuning)[FASTER] == "not 1.02 times as fast"
    assert loaded(bundle_source) == ""


def test_a_wrong_variant_is_never_timed_nor_kept(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeSession.run

    def wrong(self: OnnxRuntimeSession, images: np.ndarray) -> np.ndarray:
        answers = run(self, images)
        options = self._session.get_session_options()
        return answers if options.enable_mem_pattern else answers[:, ::-1]

    monkeypatch.setattr(OnnxRuntimeSession, "run", wrong)
    contests = rig_contests(monkeypatch, {FASTER: 0.1})
    tuning = tune(bundle_source)
    assert tuning.kept == {NAME: None}
    assert statuses(tuning)[FASTER].startswith("wrong: logits are ")
    assert {row.golden for row in tuning.rows if row.variant == FASTER} == {"wrong"}
    assert not any(FASTER in contest for contest in contests)
    assert loaded(bundle_source) == ""


def test_a_wrong_default_is_said_and_nothing_is_kept_of_it(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, x: run(self, x)[:, ::-1])
    rig_contests(monkeypatch, {FASTER: 0.1})
    tuning = tune(bundle_source)
    assert not tuning.good
    assert [row.variant for row in tuning.rows] == ["default"]
    assert cache_of(bundle_source).read()[1] == {}


def test_a_variant_that_is_refused_keeps_no_other_from_being_tried(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OnnxRuntime.open

    def refuse(self: OnnxRuntime, *arguments: object) -> object:
        if self.settings.optimisation == "extended":
            raise EngineError("no such level")
        return opened(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    rig_contests(monkeypatch, {FASTER: 0.5})
    tuning = tune(bundle_source)
    assert statuses(tuning)[SLOWER] == "refused: no such level"
    assert tuning.kept == {NAME: FASTER}


def test_tuning_again_forgets_what_is_no_longer_faster(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    rig_contests(monkeypatch, {})
    assert tune(bundle_source).kept == {NAME: None}
    assert loaded(bundle_source) == ""
    assert not any(FASTER in key for key in cache_of(bundle_source).findings())


def test_every_batch_size_counts(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contests = rig_contests(monkeypatch, {FASTER: 0.5}, {FASTER: 2.0})
    tuning = tune(bundle_source, batches=(4, 1))
    assert len(contests) == 2
    assert statuses(tuning)[FASTER] == "slower at batch 4"
    gains = {r.batch: r.gain.value for r in tuning.rows if r.variant == FASTER and r.gain}
    assert gains == {1: 2.0, 4: 0.5}


def test_latencies_stay_comparable(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice among engines goes on from the default's own latency and the gain."""
    default = Candidate("fp32", BACKENDS["onnxruntime"])
    other = Candidate("fp32", BACKENDS["openvino"])
    cache = cache_of(bundle_source)
    for candidate, milliseconds in ((default, 3.0), (other, 2.0)):
        cache.mark_right(candidate.key, 1e-7)
        cache.store_latency(candidate.key, milliseconds, (milliseconds, milliseconds))
    with Engine.load(bundle_source, "fp32") as engine:
        assert engine.info.backend == "openvino"
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    with Engine.load(bundle_source, "fp32") as engine:
        assert engine.info.backend == "onnxruntime"
        assert "fastest measured here at batch 1: 1.5 ms" in engine.info.why


@pytest.mark.parametrize("change", ["version", "device", "bundle"])
def test_another_library_device_or_bundle_runs_the_default(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle)
    assert loaded(bundle) == FASTER
    if change == "bundle":
        manifest, line = bundle / "manifest.json", bundle / "manifest.sha256"
        old = Bundle.open(bundle).digest
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        new = hashlib.sha256(manifest.read_bytes()).hexdigest()
        line.write_text(line.read_text().replace(old, new))
    else:
        monkeypatch.setattr(OnnxRuntime, change, lambda self: "another")
    assert loaded(bundle) == ""


def test_other_numbers_of_threads_are_tuned_by_themselves(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    with Engine.load(bundle_source, "fp32", "onnxruntime", threads=1) as engine:
        assert engine.info.variant == ""


def test_settings_of_another_version_are_said_and_passed_over(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    index = cache_of(bundle_source).folder / "device.json"
    index.write_text(index.read_text().replace("memory_pattern", "memory_colour"))
    with caplog.at_level(logging.WARNING):
        assert loaded(bundle_source) == ""
    assert "memory_colour" in caplog.text
    assert "`vit-edge tune` finds another" in caplog.text


def test_a_kept_variant_that_fails_gives_way_to_the_default(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    opened = OnnxRuntime.open

    def refuse(self: OnnxRuntime, *arguments: object) -> object:
        if not self.settings.memory_pattern:
            raise EngineError("no longer supported")
        return opened(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        assert engine.info.variant == ""
        assert f"{NAME}, tuned ({FASTER}) is not used: no longer supported" in engine.info.why
    assert "no longer supported" in caplog.text


def test_a_check_of_a_kept_variant_that_answers_wrongly_puts_it_out_of_use(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig_contests(monkeypatch, {FASTER: 0.5})
    tune(bundle_source)
    run = OnnxRuntimeSession.run
    with monkeypatch.context() as patch:
        patch.setattr(
            OnnxRuntimeSession,
            "run",
            lambda self, x: (
                run(self, x)
                if self._session.get_session_options().enable_mem_pattern
                else run(self, x)[:, ::-1]
            ),
        )
        assert main(["check", str(bundle_source)]) == 1
    assert f"{NAME} is tuned here: {FASTER}." in capsys.readouterr().out
    assert loaded(bundle_source) == ""
    assert main(["check", str(bundle_source), "-q"]) == 0


KILLED = """
import os, signal, sys
import numpy as np
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.tools.measure.rounds import Contest, Series
from vit_edge.runtime.tools.tune import trials
from vit_edge.runtime.tools.tune.run import tune_bundle

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def measure(calls, schedule, progress):
    if sys.argv[2] == "while it measures":
        die()
    times = {name: 0.5 if name.startswith("memory") else 1.0 for name in calls}
    return Contest({n: Series((np.full(4, t),) * 12, 1.0) for n, t in times.items()}, {})

write = DeviceCache.write
def write_or_die(self, name, data):
    if b"memory_pattern" in data:  # the index that has the winner
        die()
    return write(self, name, data)

trials.measure_rounds, DeviceCache.write = measure, write_or_die
tune_bundle(Bundle.open(sys.argv[1]), (1,), 0.1, ("fp32",), ("onnxruntime",))
"""


@pytest.mark.parametrize("moment", ["while it measures", "before it keeps the winner"])
def test_a_process_that_is_killed_leaves_the_cache_sound(bundle_source: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(bundle_source), moment]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert cache_of(bundle_source).findings() != {}, "the default was checked before"
    assert cache_of(bundle_source).read()[1] == {}
    assert loaded(bundle_source) == ""


def test_a_cache_that_cannot_be_written_is_an_error(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(BackendError, match="nothing could be kept"):
        tune(bundle_source)


@pytest.mark.parametrize(("batches", "seconds"), [((0,), 1.0), ((1,), 0.0), ((1,), float("inf"))])
def test_what_cannot_be_measured_is_refused(
    bundle_source: Path, batches: tuple[int, ...], seconds: float
) -> None:
    with pytest.raises(InputError):
        tune_bundle(Bundle.open(bundle_source), batches, seconds)


class TestCommand:
    def test_a_table_says_what_is_kept_and_why_the_others_are_not(
        self,
        bundle_source: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rig_contests(monkeypatch, {FASTER: 0.5, SLOWER: 2.0})
        arguments = ["tune", str(bundle_source), "--precision", "fp32", "int8"]
        assert main([*arguments, "--backend", "onnxruntime", "-q"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "2.000 (2.000 to 2.000)" in captured.out
        for precision in ("fp32", "int8"):
            assert f"kept: {precision} on onnxruntime runs with {FASTER} from now" in captured.out
        assert main(["inspect", str(bundle_source)]) == 0
        assert "tuned on this device" in capsys.readouterr().out
        assert main(["tune", str(bundle_source), "--forget", "--precision", "int8"]) == 0
        assert capsys.readouterr().out == f"forgotten: int8 on onnxruntime: {FASTER}\n"
        assert main(["inspect", str(bundle_source), "--json"]) == 0
        tuned = json.loads(capsys.readouterr().out)["tuned"]
        assert {name: variant["name"] for name, variant in tuned.items()} == {NAME: FASTER}
        assert main(["tune", str(bundle_source), "--forget", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"forgotten": [f"{NAME}: {FASTER}"]}
        assert loaded(bundle_source) == ""
        assert main(["tune", str(bundle_source), "--forget"]) == 0
        assert capsys.readouterr().out == "nothing was kept here\n"

    def test_it_succeeds_where_nothing_is_faster_and_says_so(
        self,
        bundle_source: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rig_contests(monkeypatch, {})
        arguments = ["tune", str(bundle_source), "--precision", "fp32", "--backend", "onnxruntime"]
        assert main(arguments) == 0
        assert "nothing is 1.02 times as fast as the default" in capsys.readouterr().out

    def test_json_has_every_variant(
        self,
        bundle_source: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rig_contests(monkeypatch, {"Linears as convolutions": 0.5})
        arguments = ["--precision", "fp32", "--backend", "openvino", "--batch", "1", "3", "--json"]
        assert main(["tune", str(bundle_source), *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["kept"] == {"fp32 on openvino": "Linears as convolutions"}
        rows = {(row["variant"], row["batch"]): row for row in found["rows"]}
        assert rows["default", 1]["gain"] is None
        assert rows["Linears as convolutions", 3]["gain"]["value"] == 2.0
        assert rows["Linears as convolutions", 3]["golden"] == "right"
        assert loaded(bundle_source, "openvino") == "Linears as convolutions"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--precision", "fp7"), "no precision 'fp7'"),
            (("--backend", "tea"), "unknown backend 'tea'"),
            (("--forget", "--backend", "tea"), "unknown backend 'tea'"),
            (("--batch", "0"), "a batch has at least one image"),
            (("--backend", "tensorrt-lean"), "can run here"),
        ],
    )
    def test_a_wrong_wish_is_one_line(
        self,
        bundle_source: Path,
        arguments: tuple[str, ...],
        says: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["tune", str(bundle_source), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line


def test_profiles_and_comparisons_are_of_the_kept_variant(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig_contests(monkeypatch, {"Linears as convolutions": 0.5})
    tune(bundle_source, backend="openvino")
    opened: list[str] = []
    original = OpenVino.open

    def noted(self: OpenVino, *arguments: object) -> object:
        opened.append(self.settings.linears)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenVino, "open", noted)
    little = Schedule(seconds=0.0, calls=4, rounds=2, settle_s=0.0)
    found = compare_bundle(
        Bundle.open(bundle_source), (1,), 1.0, ("fp32", "int8"), ("openvino",), lambda *_: little
    )
    rows = {row.precision: row for row in found.rows}
    assert rows["fp32"].variant == "Linears as convolutions"
    assert rows["int8"].variant == ""
    assert rows["int8"].speedup is not None, "the tuned fp32 is its reference"
    assert "convolutions" in opened
    assert "fp32 on openvino is tuned here: Linears as convolutions." in found.notes
    deployment = Deployment(Bundle.open(bundle_source))
    key = Candidate("fp32", BACKENDS["openvino"]).key
    assert deployment.cache.finding(f"{key}|Linears as convolutions").latency_ms is not None
    assert deployment.cache.finding(key).latency_ms is None
