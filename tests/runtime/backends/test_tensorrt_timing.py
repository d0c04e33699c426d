"""The timing cache: kept for a version and a device, never damaged, never lost to another builder.

The library's part is emulated: a "timing" is a line of text, and what the genuine classes take is
checked against their recordings.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vit_edge.runtime.backends.tensorrt.build import timing_cache, timing_file

from .api import Api, differences, recordings


class Cache:
    """Stands for ITimingCache."""

    def __init__(self, lines: set[str]) -> None:
        self.lines = lines

    def serialize(self) -> bytes:
        return "\n".join(sorted(self.lines)).encode()

    def combine(self, input_cache: Cache, ignore_mismatch: bool) -> bool:
        self.lines |= input_cache.lines
        return True


class Config:
    """Stands for IBuilderConfig. It refuses timings of "foreign", and keeps what it was given."""

    def __init__(self) -> None:
        self.parsed: list[bytes] = []
        self.cache: Cache | None = None

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache:
        self.parsed.append(serialized_timing_cache)
        return Cache(set(serialized_timing_cache.decode().split()))

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and "foreign" in cache.lines:
            return False
        self.cache = cache
        return True

    def build(self, kernel: str) -> None:
        assert self.cache is not None
        self.cache.lines.add(kernel)


def build(path: Path, kernel: str) -> Config:
    config = Config()
    with timing_cache(config, path):
        config.build(kernel)
    return config


def known(path: Path) -> set[str]:
    """The timings that the next build starts with."""
    config = Config()
    with timing_cache(config, path):
        assert config.cache is not None
        return set(config.cache.lines)


@pytest.mark.parametrize("api", recordings("tensorrt"), ids=lambda api: api.version)
def test_the_stand_ins_are_as_the_genuine_classes(api: Api) -> None:
    assert differences(Cache, api, "ITimingCache") == []
    wrong = differences(Config, api, "IBuilderConfig")
    assert len(wrong) == 1, "and `build`, our own"
    assert "IBuilderConfig.build" in wrong[0]


def test_the_next_build_knows_the_timings(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.timing"
    build(path, "gemm")
    build(path, "softmax")
    assert known(path) == {"gemm", "softmax"}


def test_versions_and_devices_have_files_of_their_own(tmp_path: Path) -> None:
    names = {
        timing_file(tmp_path, "tensorrt", version, device)
        for version in ("11.4.0.106", "10.3.0")
        for device in ("NVIDIA L4 (8.9)", "Orin (8.7)")
    }
    assert len(names) == 4
    file = timing_file(tmp_path, "tensorrt", "11.4.0", "NVIDIA L4/../x (8.9)")
    assert file.parent == tmp_path


@pytest.mark.parametrize("position", [0, 20, 33, -1])
def test_a_damaged_file_never_reaches_the_library(tmp_path: Path, position: int) -> None:
    path = tmp_path / "x.timing"
    build(path, "gemm")
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert build(path, "softmax").parsed == [b""]
    assert known(path) == {"softmax"}


@pytest.mark.parametrize("size", [0, 10, 33])
def test_a_cut_file_is_as_if_it_were_not_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.timing"
    build(path, "gemm")
    path.write_bytes(path.read_bytes()[:size])
    assert known(path) == set()


def test_timings_that_the_library_refuses_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    first = Config()
    with timing_cache(first, path):
        first.build("foreign")
    config = Config()
    with timing_cache(config, path):
        assert config.cache is not None
        assert config.cache.lines == set()


def test_two_builders_at_once_keep_each_others_timings(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    first, second = Config(), Config()
    with timing_cache(first, path), timing_cache(second, path):
        first.build("gemm")
        second.build("softmax")
    assert known(path) == {"gemm", "softmax"}


def test_an_interrupted_build_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.timing"
    build(path, "gemm")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), timing_cache(Config(), path):
        raise KeyboardInterrupt
    assert path.read_bytes() == before


def test_a_full_disk_costs_the_timings_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.timing"
    build(path, "gemm")
    before = path.read_bytes()

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    build(path, "softmax")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.lock", "x.timing"]


def test_no_file_no_cache() -> None:
    config = Config()
    with timing_cache(config, None):
        assert config.cache is None
