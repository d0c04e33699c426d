"""`vit-edge score --ray` on a real cluster of several processes on this machine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vit_edge.runtime.tools.score.folder import ScoreFolder
from vit_edge.runtime.tools.score.ray_data import RangeJob, Scorer
from vit_edge.runtime.tools.score.run import Request, make_record, prepare
from vit_edge.runtime.tools.score.scoring import BatchSettings

from .rig import ENGINE, column, kill, parts, read, score, start, wait_for, write_images

pytest.importorskip("ray")

COUNT, ROWS, WORKERS = 120, 4, 2
ARGUMENTS = (*ENGINE, "--rows", ROWS, "--batch", 3, "--workers", WORKERS)
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def descendants(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started, and theirs. Source: proc(5), children."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def scorers(pid: int) -> list[int]:
    """The processes of the pool among the descendants of a program."""
    found = []
    for process in descendants(pid):
        try:
            name = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if name.startswith(b"ray::MapWorker"):
            found.append(process)
    return found


@pytest.mark.slow
def test_every_row_is_there_once_though_a_process_is_killed(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", COUNT, side=1600)
    images[7].write_bytes(b"damaged")
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = (bundle_source, tmp_path / "images", "--out", out, *ARGUMENTS)
    process = start(*arguments, "--ray", "--json", **ALONE)
    wait_for(lambda: len(parts(out)) > 2, process)
    before = scorers(process.pid)
    assert len(before) == WORKERS
    kill(before[0])
    assert len(parts(out)) < COUNT // ROWS
    printed = process.communicate()[0]
    assert process.returncode == 1, printed
    summary = json.loads(printed[printed.index("{") :])
    assert (summary["rows"], summary["failed"], summary["scored"]) == (COUNT, 1, COUNT)
    status, _, _ = score(capsys, bundle_source, tmp_path / "images", "--out", whole, *ARGUMENTS)
    assert status == 1
    mine, theirs = read(out), read(whole)
    assert column(mine, "index") == list(range(COUNT))
    assert mine.equals(theirs)
    assert (out / "_SUCCESS").read_bytes() == (whole / "_SUCCESS").read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_ray_and_without(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", COUNT, side=1600)
    out = tmp_path / "out"
    arguments = (bundle_source, tmp_path / "images", "--out", out, *ARGUMENTS)
    process = start(*arguments, "--ray", **ALONE)
    wait_for(lambda: len(parts(out)) > 2, process)
    kill(process.pid)
    process.communicate()
    done = len(parts(out))
    assert not (out / "_SUCCESS").exists()
    status, _, err = score(capsys, *arguments)
    assert status == 0, err
    assert done < COUNT // ROWS
    assert "images are done in" in err
    assert column(read(out), "index") == list(range(COUNT))


@pytest.mark.parametrize("problem", ["none", "deadly", "folder", "bundle"])
def test_a_process_of_the_pool_writes_its_range_or_says_why_not(
    problem: str, bundle_source: Path, tmp_path: Path
) -> None:
    """As Ray calls it, in this process."""
    write_images(tmp_path / "images", 6)
    out = tmp_path / "out"
    request = Request(
        bundle_source, tmp_path / "images", out, "fp32", "onnxruntime", threads=1, rows=4
    )
    bundle, listing = prepare(request)
    record = make_record(request, bundle, listing, "fp32", "onnxruntime")
    with ScoreFolder.open(out, record) as folder:
        part = pickle.dumps(listing.part(*folder.shards.range(1)))
        if problem == "deadly":  # as three processes leave it that died over this range
            folder.shards.attempts(1).write_bytes(b"...")
        elif problem == "folder":
            request = replace(request, out=tmp_path)
        elif problem == "bundle":
            record = replace(record, bundle_sha256="0" * 64)
        scorer = Scorer(RangeJob(request, record, BatchSettings(2, 1)))
        result = scorer({"number": [1], "part": [part]})
    assert len(parts(out)) == (problem == "none")
    if problem == "none":
        assert result == {"rows": [2], "failed": [0], "problem": [""]}
        assert column(read(out), "index") == [4, 5]
    said = {
        "none": "",
        "deadly": "3 processes died one after the other while they had the images 4 to 5",
        "folder": "holds other files",
        "bundle": "is another bundle",
    }
    assert said[problem] in result["problem"][0]


def test_a_cluster_that_is_not_there_is_one_clear_line(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", 4)
    arguments = (bundle_source, tmp_path / "images", "--out", tmp_path / "out", *ENGINE)
    status, _, err = score(capsys, *arguments, "--ray", "127.0.0.1:1")
    assert status == 2
    assert "there is no Ray cluster at 127.0.0.1:1" in err
    assert not parts(tmp_path / "out")
