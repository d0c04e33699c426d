from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from vit_edge.runtime.tools.cli import main

ROW_FIELDS = {
    "outputs", "variant",
    "precision", "backend", "batch", "p50_ms", "p90_ms", "p99_ms", "images_per_s", "top1",
    "reference_top1", "agreement", "cosine", "bytes", "status",
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_check_is_good_on_an_untouched_bundle(
    bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "check", bundle_source, "--json")
    rows = json.loads(out)["rows"]
    assert status == 0
    assert {row["precision"] for row in rows} == {"fp32", "fp16", "int8"}
    assert all(row["status"] == "ok" for row in rows)


def _without_machine(printed: str) -> list[str]:
    """Without the line that says how much memory is free."""
    return [line for line in printed.splitlines() if " of memory free" not in line]


def test_quiet_commands_print_results_and_errors_alone(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "check", bundle_source)
    assert "measuring" in err
    quiet_status, quiet_out, quiet_err = run(capsys, "check", bundle_source, "-q")
    assert (quiet_status, quiet_err) == (status, "")
    assert _without_machine(quiet_out) == _without_machine(out)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG damaged")
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    status, out, err = run(capsys, "run", bundle_source, *pictures, "--quiet")
    (answer,), (broken, counted) = out.splitlines(), err.splitlines()
    assert status == 1
    assert "a.png: " in answer
    assert "b.png" in broken
    assert counted.startswith("1 of 2 could not be read")
    status, _, err = run(capsys, "export", "-q", "--calib", "nowhere")
    assert (status, len(err.splitlines())) == (2, 1)


def test_check_exits_1_when_an_engine_answers_wrongly(
    bundle_source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OnnxRuntimeSession.run
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, x: 1.5 * original(self, x))
    status, out, _ = run(capsys, "check", bundle_source)
    assert status == 1
    assert "failed: logits are" in out


def test_inspect_tells_how_the_bundle_was_made(
    bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "inspect", bundle_source)
    assert status == 0
    for words in ("digits.safetensors", "128 images of scikit-learn digits", "simulated", "uint8"):
        assert words in out
    assert {"64", "True", "1e-06"} <= set(out.replace("│", " ").split())
    status, out, _ = run(capsys, "inspect", bundle_source, "--json")
    printed = json.loads(out)
    assert all(row.keys() == ROW_FIELDS for row in printed["rows"])
    model = printed["manifest"]["model"]
    assert (model["embed_dim"], model["qkv_bias"], model["block.norm_eps"]) == (64, True, 1e-6)
    assert type(printed["manifest"]["provenance"]["seed"]) is int


def test_run_names_the_five_likeliest_classes(
    bundle_source: Path,
    digit_frames: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index in range(2):
        picture = Image.fromarray(digit_frames[index, :, :, 0]).resize(
            (80, 80), Image.Resampling.BOX
        )
        picture.save(tmp_path / f"{index}.png")
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    status, out, _ = run(capsys, "run", bundle_source, *images, "--json", "--precision", "fp32")
    rows = [json.loads(line) for line in out.splitlines()[:-1]]
    assert status == 0
    assert [len(row["top5"]) for row in rows] == [5, 5]
    name, probability = rows[0]["top5"][0]
    assert name == "6"
    assert probability > 0.5


def test_build_for_a_backend_that_needs_none_is_explained(
    bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "build", bundle_source, "--target", "onnxruntime")
    assert status == 2
    assert "nothing to build" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("check", "nowhere"), "there is no bundle at nowhere"),
        (("compare", "{bundle}", "--batch", "0"), "--batch 0"),
        (("run", "{bundle}", "none.png"), "there is no image at none.png"),
        (("run", "{bundle}", __file__), "not a readable image"),
        (("run", "{bundle}", "x.png", "--precision", "fp8"), "no precision 'fp8'"),
        (("build", "{bundle}", "--target", "tpu"), "unknown backend 'tpu'"),
        (("export", "resnet50"), "unknown model 'resnet50'"),
        (("export", "vit_digits", "--precision", "fp12"), "unknown precision 'fp12'"),
        (("export", "vit_digits", "--calib", "nowhere"), "at nowhere"),
        (("export", "--weights", "none.pth"), "no checkpoint file at none.pth"),
        (("export", "--mean", "a,b"), "--mean"),
        (("dance",), "invalid choice"),
        (("check",), "BUNDLE"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    arguments: tuple[str, ...],
    named: str,
    bundle_source: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *(a.format(bundle=bundle_source) for a in arguments))
    assert status == 2
    assert named in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_is_one_line_and_exit_3(
    bundle_source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, images: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(OnnxRuntimeSession, "run", fail)
    status, _, err = run(capsys, "check", bundle_source)
    assert status == 3
    assert "ZeroDivisionError: surprise" in err
    assert "Traceback" not in err


def cli(bundle: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vit_edge", arguments[0], str(bundle), *arguments[1:]]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_full_disk_behind_the_output_is_said(bundle_source: Path) -> None:
    with open("/dev/full", "w") as full:
        done = cli(bundle_source, "inspect", stdout=full)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["vit-edge: no space left (standard output)"]


def test_a_reader_that_goes_away_ends_it_quietly(bundle_source: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = cli(bundle_source, "inspect", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_batch_beyond_memory_is_said(bundle_source: Path) -> None:
    done = cli(bundle_source, "compare", "--batch", "1000000000000", stdout=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "out of memory" in done.stderr


def test_inspect_says_what_was_inferred_and_assumed(
    bundle_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bundle_source)]) == 0
    text = capsys.readouterr().out
    assert "vit-edge checkpoint: width 64, depth 4" in text
    assert "mean 0.5 (as vit_digits)" in text
