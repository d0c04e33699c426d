"""Watches what a piece of code opens and loads, by Python's audit events and by patches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

_FOREIGN = {"tensorrt", "tensorrt_rtx", "tensorrt_lean", "openvino", "onnx", "model_signing", "PIL"}
_active: list[_Watch] = []
_hooked: list[bool] = []


class _Watch:
    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed, self.seen = allowed, list[str]()

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "ctypes.dlopen" or (
            name == "import" and str(arguments[0]).split(".")[0] in _FOREIGN
        ):
            self.seen.append(f"{name} {arguments[0]}")
        elif name == "open" and isinstance(arguments[0], str | bytes):
            path = os.fsdecode(arguments[0])
            if os.path.isabs(path) and not path.startswith(self.allowed):
                self.seen.append(f"open {path}")


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    for watch in _active:
        watch.event(name, arguments)


def _refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("bytes that were not verified reached another library")


@contextmanager
def nothing_foreign(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Iterator[None]:
    """Fails if, inside, another library is loaded or parses something, or a file outside `bundle`
    and this device's own folders is opened.
    """
    if not _hooked:  # an audit hook cannot be removed
        sys.addaudithook(_hook)
        _hooked.append(True)
    kernel = (
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/self/cgroup",
        "/sys/fs/cgroup/",
        "/sys/devices/",
    )
    own = (os.environ["XDG_STATE_HOME"], os.environ["XDG_CACHE_HOME"], *kernel)
    watch = _Watch((str(bundle), *own, sys.prefix, sys.base_prefix))
    with monkeypatch.context() as patches:
        patches.setattr(onnxruntime, "InferenceSession", _refuse)
        patches.setattr(np, "load", _refuse)
        patches.setattr(np, "frombuffer", _refuse)
        _active.append(watch)
        try:
            yield
        finally:
            _active.remove(watch)
    if watch.seen:
        raise AssertionError(f"was opened or loaded: {watch.seen}")
