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


def test_all_of_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine, "memory_limit", lambda: 3 << 29)
    monkeypatch.setattr(machine, "device_name", lambda: "NVIDIA L4 (8.9)")
    described = describe_machine([("openvino", "2026.4.1")])
    short, whole = str(described), "\n".join(described.details())
    assert "\n" not in short
    for text in (short, whole):
        assert "1.50 CPUs" in text
        assert "NVIDIA L4 (8.9)" in text
        assert "openvino 2026.4.1" in text
    assert "limit of the container: 1.5 GiB" in whole
    assert described.instructions
    assert all(name in whole for name in described.instructions)


def test_the_clock_is_told_where_the_kernel_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scaling_governor").write_text("schedutil\n")
    (tmp_path / "cpuinfo_min_freq").write_text("600000\n")
    (tmp_path / "cpuinfo_max_freq").write_text("2400000\n")
    monkeypatch.setattr(machine, "_FREQUENCY", tmp_path)
    found = describe_machine([])
    assert (found.governor, found.frequency) == ("schedutil", "600 to 2400 MHz")
