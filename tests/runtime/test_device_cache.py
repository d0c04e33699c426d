from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from vit_edge.runtime.device_cache import DeviceCache


@pytest.fixture
def cache(tmp_path: Path) -> DeviceCache:
    return DeviceCache(tmp_path / "cache")


def test_an_altered_engine_is_not_used(cache: DeviceCache) -> None:
    cache.store_engine("key", b"engine")
    assert cache.engine("key") == b"engine"
    (path,) = cache.folder.glob("*.engine")
    path.write_bytes(b"other")
    assert cache.engine("key") is None


def test_a_new_engine_is_checked_and_measured_anew(cache: DeviceCache) -> None:
    cache.mark_right("key", 0.1)
    cache.store_latency("key", 2.0)
    cache.store_engine("key", b"engine")
    assert cache.finding("key").rms_error is None
    assert cache.finding("key").latency_ms is None


def test_what_is_right_again_is_no_longer_refused(cache: DeviceCache) -> None:
    cache.mark_right("key", 0.1)
    cache.store_latency("key", 2.0)
    cache.mark_refused("key", "wrong answers")
    assert cache.finding("key").refused == "wrong answers"
    assert cache.finding("key").latency_ms is None
    cache.mark_right("key", 0.1)
    assert cache.finding("key").refused is None


@pytest.mark.parametrize("damage", ["{", "[]", '{"findings": {"key": {"latency_ms": "fast"}}}'])
def test_a_damaged_cache_is_as_if_it_were_empty(cache: DeviceCache, damage: str) -> None:
    cache.mark_right("key", 0.1)
    (cache.folder / "device.json").write_text(damage)
    assert cache.findings() == {}
    cache.mark_right("key", 0.2)
    assert cache.finding("key").rms_error == 0.2


def _store(folder: Path, name: str) -> None:
    for index in range(20):
        DeviceCache(folder).store_latency(f"{name}{index}", 1.0)


def test_processes_do_not_lose_each_others_findings(cache: DeviceCache) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_store, args=(cache.folder, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(cache.findings()) == 60
