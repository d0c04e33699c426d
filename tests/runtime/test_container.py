"""Limits of control groups, on folders as the kernel and containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vit_edge.runtime import Engine, InputError
from vit_edge.runtime.backends import BACKENDS, cpu
from vit_edge.runtime.files import available_memory

from .backends.tiny import SPEC, tiny_frames, tiny_graph, tiny_scores

POD = "kubepods/pod1/app"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the control groups; what is written there is what the kernel would show."""
    monkeypatch.setattr(cpu, "CGROUP_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cpu, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def show(groups: Path, own: str, files: dict[str, str]) -> None:
    (groups / "own").write_text(own)
    for name, text in files.items():
        path = groups / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        pytest.param(f"0::/{POD}", {f"{POD}/cpu.max": "150000 100000"}, 1.5, id="v2"),
        pytest.param(f"0::/{POD}", {f"{POD}/cpu.max": "max 100000"}, None, id="v2-without"),
        pytest.param(
            f"0::/{POD}",
            {f"{POD}/cpu.max": "150000 100000", "kubepods/cpu.max": "50000 100000"},
            0.5,
            id="v2-the-tightest",
        ),
        pytest.param("0::/", {"cpu.max": "200000 100000"}, 2.0, id="v2-own-namespace"),
        pytest.param(
            "0::/../../other", {"cpu.max": "200000 100000"}, 2.0, id="v2-outside-its-namespace"
        ),
        pytest.param(
            f"4:cpu,cpuacct:/{POD}\n0::/",
            {
                f"cpu,cpuacct/{POD}/cpu.cfs_quota_us": "70000",
                f"cpu,cpuacct/{POD}/cpu.cfs_period_us": "100000",
            },
            0.7,
            id="v1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/0123",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "70000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.7,
            id="v1-as-a-container-sees-it",
        ),
        pytest.param(
            "4:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "1"},
            None,
            id="v1-no",
        ),
        pytest.param("4:memory:/", {"cpu/cpu.max": "1 1"}, None, id="another-controller"),
        pytest.param("0::/", {"cpu.max": "garbage"}, None, id="garbage"),
        pytest.param("", {}, None, id="no-groups"),
    ],
)
def test_a_quota(groups: Path, own: str, files: dict[str, str], quota: float | None) -> None:
    show(groups, own, files)
    assert cpu.cpu_quota() == quota


@pytest.mark.parametrize(
    ("own", "files", "limit", "left"),
    [
        pytest.param(
            "0::/",
            {
                "memory.max": str(1 << 30),
                "memory.current": str(700 << 20),
                "memory.stat": f"anon 5\ninactive_file {100 << 20}",
            },
            1 << 30,
            424 << 20,
            id="v2",
        ),
        pytest.param(
            "9:memory:/a",
            {
                "memory/a/memory.limit_in_bytes": str(1 << 29),
                "memory/a/memory.usage_in_bytes": str(1 << 28),
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            1 << 29,
            1 << 28,
            id="v1",
        ),
        pytest.param("0::/", {"memory.max": "max"}, None, None, id="none"),
    ],
)
def test_memory(
    groups: Path, own: str, files: dict[str, str], limit: int | None, left: int | None
) -> None:
    show(groups, own, files)
    assert (cpu.memory_limit(), cpu.memory_left()) == (limit, left)
    if left is not None:
        assert available_memory() <= left


@pytest.mark.parametrize(("quota", "threads"), [(0.3, 1), (1.0, 1), (1.5, 2), (64.0, 4)])
def test_no_more_threads_than_a_quota_feeds(
    groups: Path, monkeypatch: pytest.MonkeyPatch, quota: float, threads: int
) -> None:
    """Two threads on a quota of one CPU are stopped for half of each period."""
    monkeypatch.setattr(cpu, "_TOPOLOGY", groups)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    show(groups, "0::/", {"cpu.max": f"{int(1e5 * quota)} 100000"})
    assert cpu.default_threads() == threads
    assert cpu.is_limited() == (quota < 4)
    assert ("quota" in cpu.cpu_name.__wrapped__()) == (quota < 4)


def test_threads_of_one_core_count_once(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        folder = groups / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 2},{number % 2 + 2}\n")
    monkeypatch.setattr(cpu, "_TOPOLOGY", groups)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert cpu.default_threads() == 2


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_session_computes_with_the_threads_that_were_asked_for(
    backend: str, groups: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames, cores = tiny_frames(3), len(os.sched_getaffinity(0))
    for asked, used in ((1, 1), (cores, cores), (cores + 7, cores)):
        session = BACKENDS[backend].open(tiny_graph(), SPEC, threads=asked)
        assert session.threads == used
        np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
        session.close()
    assert f"threads={cores + 7}: this process may use {cores} cores" in caplog.text
    show(groups, "0::/", {"cpu.max": "40000 100000"})
    session = BACKENDS[backend].open(tiny_graph(), SPEC)
    assert session.threads == 1
    session.close()


def test_the_engine_tells_its_threads(bundle_source: Path) -> None:
    with Engine.load(bundle_source, "fp32", "onnxruntime", threads=1) as engine:
        assert engine.info.threads == 1
        assert "1 thread>" in repr(engine)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="threads="):
            Engine.load(bundle_source, threads=wrong)  # type: ignore[arg-type]


def test_latencies_of_other_threads_are_not_taken_for_these(bundle_source: Path) -> None:
    from vit_edge.runtime.bundle import Bundle
    from vit_edge.runtime.deployment import Deployment

    bundle = Bundle.open(bundle_source)
    (one,) = Deployment(bundle, 1).candidates("fp32", "onnxruntime")
    (default,) = Deployment(bundle).candidates("fp32", "onnxruntime")
    assert one.key != default.key
    (gpu,) = Deployment(bundle, 1).candidates("fp32", "tensorrt-rtx")
    assert gpu.threads is None  # an engine that was built stays the same
