"""A run that ends early loses no row and repeats none, and nothing else goes on in its place."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vit_edge.runtime.files import locked
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.score import decode as score_decode
from vit_edge.runtime.tools.score import folder as score_folder
from vit_edge.runtime.tools.score.listing import Item
from vit_edge.runtime.tools.score.run import Request
from vit_edge.runtime.tools.score.run import score as score_images

from .rig import (
    ENGINE,
    ROOT,
    column,
    kill,
    parts,
    program,
    read,
    score,
    start,
    wait_for,
    write_images,
)

COUNT, ROWS = 60, 4
ARGUMENTS = (*ENGINE, "--rows", ROWS, "--batch", 3, "--workers", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a run takes a while: a kill hits the middle."""
    folder = tmp_path_factory.mktemp("images") / "i"
    write_images(folder, COUNT, side=1400)
    (folder / "007.png").write_bytes(b"damaged")
    return folder


def test_a_killed_run_goes_on_and_gives_the_rows_of_an_undisturbed_one(
    bundle_source: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    for least in (1, 5):  # killed twice
        process = start(bundle_source, images, "--out", out, *ARGUMENTS)
        wait_for(lambda least=least: len(parts(out)) > least, process)
        kill(process.pid)
        process.communicate()
        assert not (out / "_SUCCESS").exists()
        assert len(parts(out)) < COUNT // ROWS
    (out / ".part-00014-of-00015.parquet.half").write_bytes(b"PAR1")
    before = {part: part.stat().st_mtime_ns for part in parts(out)}
    status, _, err = score(capsys, bundle_source, images, "--out", out, *ARGUMENTS)
    assert status == 1, err
    assert f"{len(before) * ROWS} images are done in {out}" in err
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".lock"]
    assert score(capsys, bundle_source, images, "--out", whole, *ARGUMENTS)[0] == 1
    mine, theirs = read(out), read(whole)
    assert column(mine, "index") == list(range(COUNT))
    assert mine.equals(theirs)
    assert (out / "_SUCCESS").read_bytes() == (whole / "_SUCCESS").read_bytes()
    assert json.loads((out / "_SUCCESS").read_text())["failed"] == 1


@pytest.fixture
def begun(
    bundle_source: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A complete run, of which files are taken away again."""
    out = tmp_path / "out"
    few = tmp_path / "few"
    few.mkdir()
    for index in range(6):
        os.link(images / f"{index:03}.png", few / f"{index}.png")
    status, _, err = score(capsys, bundle_source, few, "--out", out, *ARGUMENTS)
    assert status == 0, err
    parts(out)[0].unlink()
    return out


@pytest.mark.parametrize(
    "change", ["bundle", "--top", "--rows", "--precision", "images", "source", "version"]
)
def test_what_would_mix_rows_is_refused_and_named(
    change: str,
    bundle_source: Path,
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle, data = bundle_source, tmp_path / "few"
    said, arguments = change, [*map(str, ARGUMENTS)]
    if change == "bundle":
        bundle = Path(shutil.copytree(bundle_source, tmp_path / "other"))
        manifest = bundle / "manifest.json"
        manifest.write_bytes(manifest.read_bytes().rstrip(b"\n") + b" \n")
        name = "manifest.json"
        done = subprocess.run(
            ["sha256sum", name], cwd=bundle, capture_output=True, text=True, check=True
        )
        (bundle / "manifest.sha256").write_text(done.stdout)
        said = "bundle hash"
    elif change in ("--top", "--rows"):
        arguments += [change, "3"]
        said = f"{change} {'5' if change == '--top' else ROWS} (now 3)"
    elif change == "--precision":
        arguments[1] = "int8"
        said = "precision fp32 (now int8)"
    elif change == "images":
        (data / "5.png").rename(data / "6.png")
        said = "images' hash"
    elif change == "version":
        monkeypatch.setattr("vit_edge.runtime.tools.score.run.__version__", "99.0")
        said = "(now 99.0)"
    else:
        data = Path(shutil.copytree(data, tmp_path / "copy"))
        said = f"source {tmp_path / 'few'} (now {data})"
    status, _, err = score(capsys, bundle, data, "--out", begun, *arguments)
    assert status == 2
    assert f"{begun} was begun with" in err
    assert said in err
    assert "give --out another folder" in err
    assert len(parts(begun)) == 1


def test_going_on_needs_no_precision_and_a_complete_run_says_so(
    bundle_source: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--rows", ROWS, "--batch", 3)
    status, _, err = score(
        capsys, bundle_source, tmp_path / "few", "--out", begun, *arguments, "--threads", 1
    )
    assert status == 0, err
    assert f"{begun} was begun with fp32 on onnxruntime: going on with it" in err
    assert len(parts(begun)) == 2
    status, printed, err = score(
        capsys, bundle_source, tmp_path / "few", "--out", begun, *arguments, "--json"
    )
    assert (status, json.loads(printed)["scored"]) == (0, 0)
    assert "6 images are done" in err


def test_it_goes_on_from_whatever_folder_the_command_is_given_in(
    bundle_source: Path,
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = score(capsys, bundle_source, tmp_path / "few", "--out", begun, *ARGUMENTS)
    assert status == 0, err
    assert len(parts(begun)) == 2


def test_images_that_cannot_be_read_keep_no_file_waiting(
    bundle_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is there before the images of the one behind the next are looked at."""
    out, looked = tmp_path / "out", list[int]()
    decode = score_decode.decode_item

    def watch(item: Item, preprocess: Preprocess) -> score_decode.Decoded:
        looked.append(len(parts(out)))
        return decode(item, preprocess)

    monkeypatch.setattr(score_decode, "decode_item", watch)
    (tmp_path / "list.txt").write_text("".join(f"{n}.png\n" for n in range(200)))
    request = Request(bundle_source, tmp_path / "list.txt", out, "fp32", "onnxruntime", rows=10)
    assert score_images(replace(request, batch=2, workers=1)).failed == 200
    assert looked[-1] >= 17


@pytest.mark.parametrize("damage", ["truncated", "of another run", "foreign"])
def test_a_damaged_or_foreign_file_is_named(
    damage: str,
    bundle_source: Path,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (part,) = parts(begun)
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-20])
    elif damage == "of another run":
        table = pq.read_table(part)
        pq.write_table(table.replace_schema_metadata({"vit_edge.run": "other"}), part)
    else:
        part = begun / "mine.parquet"
        part.touch()
    status, _, err = score(capsys, bundle_source, tmp_path / "few", "--out", begun, *ARGUMENTS)
    assert status == 2
    assert str(part) in err
    assert "remove it" in err or "take it away" in err


def test_only_one_run_fills_a_folder(
    bundle_source: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (bundle_source, tmp_path / "few", "--out", begun, *ARGUMENTS)
    with locked(begun / ".lock"):
        status, _, err = score(capsys, *arguments)
    assert status == 2
    assert "another `vit-edge score` is writing to" in err


def test_a_full_disk_is_one_clear_line_and_leaves_no_halves(
    bundle_source: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel refuses to let a file grow: no file of the run fits."""
    few, out = images / "below", tmp_path / "out"
    command = program(bundle_source, few, "--out", out, *ARGUMENTS)
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1; exec "$@"', "-", *command]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "part-00000-of-00008.parquet cannot be written" in done.stderr
    assert "run the same command again" in done.stderr
    assert not parts(out)
    assert not (out / "_SUCCESS").exists()
    assert not [name for name in os.listdir(out) if name.startswith(".part")]
    assert score(capsys, bundle_source, few, "--out", out, *ARGUMENTS)[0] == 0
    assert len(parts(out)) == 8


def test_no_space_in_the_middle_keeps_what_is_whole(
    bundle_source: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few, out, replaced = images / "below", tmp_path / "out", list[str]()
    durably: Callable[..., Any] = score_folder.replacing_durably

    def fill_up(path: Path, mode: int) -> Any:
        if len(replaced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced.append(path.name)
        return durably(path, mode)

    with monkeypatch.context() as patches:
        patches.setattr(score_folder, "replacing_durably", fill_up)
        status, _, err = score(capsys, bundle_source, few, "--out", out, *ARGUMENTS)
    assert status == 2
    assert "No space left on device" in err
    assert "free some space and run the same command again" in err
    assert [part.name for part in parts(out)] == replaced
    assert score(capsys, bundle_source, few, "--out", out, *ARGUMENTS)[0] == 0
    assert np.array_equal(column(read(out), "index"), np.arange(COUNT // 2))
