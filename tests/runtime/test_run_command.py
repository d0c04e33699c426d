from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.specs import vector
from vit_edge.runtime import Bundle, Engine
from vit_edge.runtime.tools.cli import main

from .videos import write_video


@pytest.fixture
def digits(digit_frames: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    for index in range(3):
        picture = Image.fromarray(digit_frames[index, :, :, 0])
        picture.resize((80, 80), Image.Resampling.BOX).save(folder / f"{index}.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["run", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_pictures_folders_and_videos_go_in_one_line(
    bundle_source: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 9)
    status, out, err = run(
        capsys, bundle_source, digits / "2.png", digits, clip, "--every", "4", "--top", "2"
    )
    assert status == 0, err
    lines = out.splitlines()
    names = [line.split(": ")[0] for line in lines]
    assert names == [
        *(str(digits / f"{index}.png") for index in (2, 0, 1, 2)),
        *(f"{clip}, frame {index}" for index in (0, 4, 8)),
    ]
    assert lines[0] == lines[3]
    assert lines[1].startswith(f"{digits}/0.png: 6 ")
    assert lines[1].count("%") == 2


@pytest.mark.parametrize("k", [1, 99])
def test_json_rows_are_named_after_k(
    bundle_source: Path, digits: Path, tmp_path: Path, k: int, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 3)
    arguments = (bundle_source, digits / "0.png", clip, "--frames", "2", "--top", k, "--json")
    status, out, _ = run(capsys, *arguments)
    *rows, end = map(json.loads, out.splitlines())
    assert status == 0
    assert [row.get("frame") for row in rows] == [None, 0, 1]
    best = rows[0][f"top{k}"]
    assert len(best) == min(k, 10)
    assert best[0][0] == "6"
    assert sum(p for _, p in best) <= 1 + 1e-9
    assert end["engine"]["backend"]
    assert (end["images"], end["failed"]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("x.png", "--top", "0"), "--top 0"),
        (("x.png", "--every", "0"), "every is 0"),
        (("clip.mp4",), "there is no video file at clip.mp4"),
        (("997",), "cannot open camera 997"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...],
    named: str,
    bundle_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, bundle_source, *arguments)
    assert status == 2
    assert named in err
    assert out == ""


def test_features_are_printed_as_they_are(
    bundle_source: Path,
    digits: Path,
    digit_frames: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Engine.load(bundle_source, "fp32", "onnxruntime")
    expected = engine(digit_frames[:3])
    manifest = Bundle.open(bundle_source).manifest
    manifest = replace(manifest, labels=None)
    session = engine._session
    assert session is not None

    def load(*arguments: object) -> Engine:
        other = Engine(session, manifest, engine.info)
        other.outputs, other.output = (vector("features", 10),), "features"
        return other

    monkeypatch.setattr(Engine, "load", load)
    monkeypatch.setattr(session, "close", lambda: None)
    status, out, _ = run(capsys, bundle_source, digits, "--json")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()[:-1]]
    assert [row.keys() for row in rows] == [{"image", "features"}] * 3
    np.testing.assert_allclose([row["features"] for row in rows], expected, atol=1e-4)
    status, out, _ = run(capsys, bundle_source, digits / "0.png")
    assert status == 0
    assert f"10 features of norm {np.linalg.norm(expected[0]):.4f}: " in out


def test_what_cannot_be_read_is_reported_in_its_place_and_the_rest_goes_on(
    bundle_source: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits / "1.png").write_bytes(b"damaged")
    (digits / "Thumbs.db").touch()
    sources = (digits, digits / "none.png", digits / "0.png")
    status, out, err = run(capsys, bundle_source, *sources, "--json")
    assert status == 1
    *rows, end = map(json.loads, out.splitlines())
    names = [(Path(row["image"]).name, "error" in row) for row in rows]
    assert names == [
        ("0.png", False), ("1.png", True), ("2.png", False), ("none.png", True), ("0.png", False),
    ]  # fmt: skip
    assert (end["images"], end["failed"]) == (3, 2)
    assert "1.png is not a readable image" in err
    assert "2 of 5 could not be read" in err
    status, out, err = run(capsys, bundle_source, *sources)
    assert status == 1
    assert len(out.splitlines()) == 3
    assert "there is no image at" in err


def test_where_nothing_can_be_read_the_exit_status_is_that_of_bad_input(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"damaged")
    status, out, _ = run(capsys, bundle_source, tmp_path, "--json")
    assert status == 2
    assert [row.get("error") is None for row in map(json.loads, out.splitlines())] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "video", "text"])
def test_a_dash_reads_standard_input(
    kind: str,
    bundle_source: Path,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"image": digits / "0.png", "video": write_video(tmp_path / "clip.mp4", 3)}
    content = files[kind].read_bytes() if kind in files else b"hello"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, out, err = run(capsys, bundle_source, "-", "--frames", "2")
    lines = out.splitlines()
    if kind == "text":
        assert status == 2
        assert "standard input (5 bytes) is neither a readable image nor a video" in err
    elif kind == "video":
        assert [line.partition(":")[0] for line in lines] == ["-, frame 0", "-, frame 1"]
    else:
        assert lines[0].startswith("-: 6 ")


def test_reasons_are_short_and_whole_where_they_are_asked_for(
    bundle_source: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bundle_source, digits / "0.png", "--backend", "onnxruntime", "--threads", "1"
    _, answers, err = run(capsys, *arguments)
    (line,) = err.splitlines()
    assert line.startswith(("fp32 on", "fp16 on", "int8 on"))
    assert "1 thread: " in line
    _, quiet, err = run(capsys, *arguments, "-q")
    assert (quiet, err) == (answers, "")
    _, whole, err = run(capsys, *arguments, "-v")
    assert whole == answers
    for fact in ("processor: ", "instruction sets: ", "memory: ", "GPU: ", "versions: python"):
        assert fact in err
    _, _, err = run(capsys, bundle_source, digits / "0.png", "-v")
    assert "tensorrt cannot run here: tensorrt is not installed: pip install" in err
    _, _, err = run(capsys, bundle_source, digits / "0.png")
    assert "pip install" not in err


def test_quiet_keeps_what_went_wrong(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    status, _, err = run(capsys, bundle_source, tmp_path / "a.png", "-q")
    assert status == 2
    assert "a.png" in err
