from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from vit_edge.runtime.tools.measure import machine
from vit_edge.runtime.tools.measure.machine import describe_machine


def test_it_describes_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = describe_machine([("openvino", "2026.4.1")])
    assert set(found.cores) == os.sched_getaffinity(0)
    assert found.cores_online >= len(found.cores)
    assert found.memory_free > 1 << 20
    assert found.versions["openvino"] == "2026.4.1"
    assert found.versions["python"] == platform.python_version()
    assert found.thread_settings["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, "1.50 CPUs"),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "max 100000", "../cpu.max": "50000 100000"}, "0.50 CPUs"),
        ({"cpu.max": "150000 100000", "../cpu.max": "50000 100000"}, "0.50 CPUs"),
        ({"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}, "2.00 CPUs"),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "garbage"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_is_the_tightest(
    files: dict[str, str],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = tmp_path / "pod" / "app"
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(f"{text}\n")
    own = iter([group, group.parent, tmp_path])
    monkeypatch.setattr(machine, "_own_groups", lambda: own)
    assert machine._cpu_limit() == expected


def test_the_clock_is_told_where_the_kernel_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scaling_governor").write_text("schedutil\n")
    (tmp_path / "cpuinfo_min_freq").write_text("600000\n")
    (tmp_path / "cpuinfo_max_freq").write_text("2400000\n")
    monkeypatch.setattr(machine, "_FREQUENCY", tmp_path)
    found = describe_machine([])
    assert (found.governor, found.frequency) == ("schedutil", "600 to 2400 MHz")
