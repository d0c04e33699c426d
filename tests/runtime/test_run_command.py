from __future__ import annotations

import json
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
    printed = json.loads(out)
    assert status == 0
    assert [row.get("frame") for row in printed["rows"]] == [None, 0, 1]
    best = printed["rows"][0][f"top{k}"]
    assert len(best) == min(k, 10)
    assert best[0][0] == "6"
    assert sum(p for _, p in best) <= 1 + 1e-9
    assert printed["engine"]["backend"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("0", "--json"), "camera 0 has none: add --frames"),
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
    rows = json.loads(out)["rows"]
    assert [row.keys() for row in rows] == [{"image", "features"}] * 3
    np.testing.assert_allclose([row["features"] for row in rows], expected, atol=1e-4)
    status, out, _ = run(capsys, bundle_source, digits / "0.png")
    assert status == 0
    assert f"10 features of norm {np.linalg.norm(expected[0]):.4f}: " in out


def test_a_damaged_picture_ends_json_without_half_an_object(
    bundle_source: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits / "1.png").write_bytes(b"damaged")
    status, out, err = run(capsys, bundle_source, digits, "--json")
    assert (status, out) == (2, "")
    assert "1.png is not a readable image" in err
