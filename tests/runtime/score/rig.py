"""Images to score, the command line in this process and as a program of its own, and its rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vit_edge.runtime.tools.cli import main

ROOT = Path(__file__).parents[3]
ENGINE = ("--precision", "fp32", "--backend", "onnxruntime", "--threads", "1")
SECONDS = 120


def write_images(folder: Path, count: int, side: int = 40) -> list[Path]:
    """Smooth images, no two alike, in the folder and one below it, in the order of listings."""
    generator = np.random.default_rng(0)
    (folder / "below").mkdir(parents=True)
    files = []
    for index in range(count):
        coarse = generator.integers(0, 256, (5, 5), np.uint8)
        place = folder / f"{index:03}.png" if index < count // 2 else folder / f"below/{index}.png"
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(
            place, compress_level=1
        )
        files.append(place)
    return files


def score(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Runs the command here; returns its exit status and what it printed."""
    capsys.readouterr()
    status = main(["score", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vit_edge", "score", *map(str, arguments)]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts the command as a program of its own."""
    return subprocess.Popen(
        program(*arguments),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until the condition holds while the process runs."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def read(out: Path) -> pa.Table:
    """All rows, in order, without what is said about the run."""
    table = pa.concat_tables(map(pq.read_table, parts(out)))
    return table.sort_by("index").replace_schema_metadata(None)


def column(table: pa.Table, name: str) -> Sequence[Any]:
    return table[name].to_pylist()
