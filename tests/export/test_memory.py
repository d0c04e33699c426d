from __future__ import annotations

import gc

import numpy as np
import pytest

from vit_edge.export.cache import Memory, resident_bytes

SIZE = 600 << 20


def make_garbage() -> None:
    """A cycle with large weights, as a graph is one."""
    node: dict[str, object] = {"weights": np.ones(SIZE, np.uint8)}
    node["itself"] = node


@pytest.mark.skipif(resident_bytes() == 0, reason="the system does not tell the memory")
def test_what_a_stage_left_is_given_back() -> None:
    gc.disable()
    try:
        gc.collect()
        memory, before = Memory(), resident_bytes()
        make_garbage()
        assert resident_bytes() - before > 0.9 * SIZE
        memory.give_back()
        assert resident_bytes() - before < 0.1 * SIZE
    finally:
        gc.enable()


def test_small_garbage_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting takes longer than the stages of a small model."""
    collected = list[int]()
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    memory = Memory()
    kept = np.ones(1 << 20, np.uint8)
    memory.give_back()
    assert not collected
    assert kept.all()
