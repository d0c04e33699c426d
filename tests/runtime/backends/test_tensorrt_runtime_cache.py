"""TensorRT for RTX's runtime cache: kept on the device, verified before it is used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vit_edge.runtime.device_cache import DeviceCache

from .rig import Rig
from .tiny import tiny_frames


@pytest.fixture
def cache(tmp_path: Path) -> DeviceCache:
    return DeviceCache(tmp_path)


def kept(cache: DeviceCache) -> bytes | None:
    return cache.scratch("key").read()


def test_it_is_kept_after_the_first_answer_and_at_close(rtx: Rig, cache: DeviceCache) -> None:
    session = rtx.open(scratch=cache.scratch("key"))
    assert kept(cache) is None
    session.run(tiny_frames(1))
    assert kept(cache) == b"kernels of 1.7.1:1"
    session.run(tiny_frames(3))
    assert kept(cache) == b"kernels of 1.7.1:1"  # it is not written again and again
    session.close()
    assert kept(cache) == b"kernels of 1.7.1:1 3"
    assert len(list(cache.folder.glob("*.engine"))) == 1  # what was replaced is gone


def test_it_is_there_at_the_next_load(rtx: Rig, cache: DeviceCache) -> None:
    for size, expected in ((1, b"kernels of 1.7.1:1"), (2, b"kernels of 1.7.1:1 2")):
        session = rtx.open(scratch=cache.scratch("key"))
        list(session.stream([tiny_frames(size)] * 3))
        session.close()
        assert kept(cache) == expected


def test_one_of_another_version_is_told_and_replaced(
    rtx: Rig, cache: DeviceCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.scratch("key").write(b"kernels of 1.6.0:7")
    with caplog.at_level(logging.WARNING):
        session = rtx.open(scratch=cache.scratch("key"))
    assert [text for text in caplog.messages if "starts anew" in text]
    session.run(tiny_frames(1))
    session.close()
    assert kept(cache) == b"kernels of 1.7.1:1"


def test_altered_bytes_never_reach_the_library(rtx: Rig, cache: DeviceCache) -> None:
    """The emulated one crashes on them, as native code may."""
    cache.scratch("key").write(b"kernels of 1.7.1:1")
    (file,) = cache.folder.glob("*.engine")
    file.write_bytes(b"altered")
    rtx.open(scratch=cache.scratch("key")).close()
    assert kept(cache) == b"kernels of 1.7.1:"


def test_nothing_is_written_where_nothing_is_new(rtx: Rig, cache: DeviceCache) -> None:
    session = rtx.open(scratch=cache.scratch("key"))
    session.run(tiny_frames(1))
    session.close()
    (file,) = cache.folder.glob("*.engine")
    before = file.stat().st_mtime_ns
    session = rtx.open(scratch=cache.scratch("key"))
    session.run(tiny_frames(1))
    session.close()
    assert file.stat().st_mtime_ns == before


def test_a_library_that_cannot_give_it_costs_no_answer(
    rtx: Rig, cache: DeviceCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from .emulation import tensorrt

    monkeypatch.setattr(tensorrt.RuntimeCache, "serialize", lambda self: None)
    session = rtx.open(scratch=cache.scratch("key"))
    assert session.run(tiny_frames(1)).shape == (1, 5)
    session.close()
    assert [text for text in caplog.messages if "was not kept" in text]
    assert kept(cache) is None


def test_full_tensorrt_has_none(full: Rig, cache: DeviceCache) -> None:
    session = full.open(scratch=cache.scratch("key"))
    session.run(tiny_frames(1))
    session.close()
    assert kept(cache) is None
