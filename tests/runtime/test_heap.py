from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from vit_edge.runtime.backends.base import give_back_freed


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory so")
def test_what_was_freed_between_living_blocks_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(65_536) for _ in range(2_000)]  # below glibc's threshold for mappings
    for block in blocks:
        ctypes.memset(block, 1, 65_536)
    for block in blocks[:-1]:
        libc.free(block)
    before = _resident_mib()
    give_back_freed()
    assert _resident_mib() < before - 60
    libc.free(blocks[-1])


def test_a_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back_freed()
    monkeypatch.setattr(sys, "platform", "win32")
    give_back_freed()
