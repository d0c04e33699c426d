from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_edge.runtime.tools.measure import interference
from vit_edge.runtime.tools.measure.interference import Interference, InterferenceWatch


def stat(path: Path, *cores: str) -> None:
    path.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8", *cores, "intr 5"]) + "\n")


def test_the_time_of_others_on_our_cores_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    file = tmp_path / "stat"
    monkeypatch.setattr(interference, "_STAT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1})
    stat(file, f"cpu0 {9 * tick} 0 0 0 0 0 0 0", f"cpu1 {tick} 0 0 {tick} 0 0 0 0")
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    own = iter([(40.0, 5.0, 5.0, 0.0, 0.0), (41.0, 5.5, 5.25, 0.25, 0.0)])
    monkeypatch.setattr(os, "times", lambda: next(own))
    watch = InterferenceWatch()
    stat(
        file, f"cpu0 {99 * tick} 0 0 0 0 0 0 0", f"cpu1 {6 * tick} {tick} 0 {9 * tick} 0 0 0 {tick}"
    )
    found = watch.read()
    # user and nice, less our own and our children's
    assert found.others == pytest.approx((6 - 2) / 10)
    assert found.stolen == pytest.approx(1 / 10)
    assert found.busy


def test_a_real_rival_shows() -> None:
    watch = InterferenceWatch()
    if watch.read().others is None:
        pytest.skip("this system's /proc/stat tells nothing")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as rival:
        time.sleep(0.1)
        watch = InterferenceWatch()
        time.sleep(0.5)
        found = watch.read()
        rival.kill()
    assert found.others is not None
    assert found.others > 0.2


@pytest.mark.parametrize(
    ("load", "others", "stolen", "busy"),
    [
        (0.1, 0.0, 0.0, False), (7.0, 0.0, 0.0, False), (0.1, 0.5, 0.0, True),
        (0.1, 0.0, 0.5, True), (3.0, None, None, True), (0.2, None, None, False),
    ],
)  # fmt: skip
def test_a_machine_is_busy_by_what_others_took_and_by_load_where_nothing_else_is_known(
    load: float, others: float | None, stolen: float | None, busy: bool
) -> None:
    assert Interference(load, load, others, stolen, cores=4).busy is busy


def test_without_proc_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "_STAT", tmp_path / "missing")
    found = InterferenceWatch().read()
    assert (found.others, found.stolen) == (None, None)
