"""The timing cache of full TensorRT: measured kernels, so that the next build is quicker.

One file for each library version and device, shared by all bundles. Losing it costs time and
nothing else.

Source: TensorRT Python API (IBuilderConfig.create_timing_cache, ITimingCache).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...files import locked_if_possible, write_whole

_log = logging.getLogger("vit_edge.tensorrt")

_DIGEST = hashlib.sha256().digest_size
_MAX_BYTES = 1 << 28


def timing_file(folder: Path, library: str, version: str, device: str) -> Path:
    """Where the timings of that library on that device lie: kernels differ between them."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library}-{version}-{device}").strip("-")
    return folder / f"{plain}.timing"


@contextmanager
def timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Builds inside the block use the timings in `path` and add theirs; None keeps none."""
    if path is None:
        yield
        return
    cache = _attach(config, _read(path))
    yield
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_if_possible(path.with_suffix(".lock")):
            _add_others(config, cache, _read(path))
            data = bytes(cache.serialize())
            write_whole(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        _log.info("the timing cache is not kept: %s", error)


def _attach(config: Any, old: bytes) -> Any:
    """A timing cache with the old timings, or an empty one where the library refuses them."""
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _add_others(config: Any, cache: Any, others: bytes) -> None:
    """What another process has measured meanwhile."""
    theirs = config.create_timing_cache(others) if others else None
    if theirs is not None:
        cache.combine(theirs, ignore_mismatch=False)


def _read(path: Path) -> bytes:
    """The kept timings; nothing if there are none or a byte of them is not as it was written: the
    library gets no damaged ones to parse.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError:
        return b""
    digest, data = content[:_DIGEST], content[_DIGEST:]
    good = len(content) <= _MAX_BYTES and hashlib.sha256(data).digest() == digest
    return data if good else b""
