"""Layers worked on at once give what they give one after the other."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnx_ir as ir
import pytest
from threadpoolctl import threadpool_info

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.onnx_file import graph_digest
from vit_edge.export.quantise import linear_layers as module
from vit_edge.export.quantise.linear_layers import parallel_map

from ..graphs import quantise


def test_results_come_in_the_order_of_their_items() -> None:
    def slower_first(item: int) -> int:
        time.sleep(0.02 * (4 - item))
        return item * item

    assert list(parallel_map(slower_first, range(5))) == [0, 1, 4, 9, 16]


def test_items_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    both = threading.Barrier(3)
    assert list(parallel_map(lambda item: both.wait(30) >= 0, range(3))) == [True] * 3


def test_each_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas_threads(item: int) -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    np.ones((2, 2)) @ np.ones((2, 2))
    before = blas_threads(0)
    for cores, items, expected in ((1, 3, 1), (2, 3, 1), (8, 8, 2), (8, 2, 4)):
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid, n=cores: set(range(n)))
        assert list(parallel_map(blas_threads, range(items))) == [{expected}] * items
    assert blas_threads(0) == before


def test_what_fails_is_raised() -> None:
    def fail(item: int) -> int:
        if item == 1:
            raise ValueError("of item 1")
        return item

    results = parallel_map(fail, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="of item 1"):
        next(results)


def test_no_items_give_no_results() -> None:
    assert list(parallel_map(lambda item: item, [])) == []


def test_one_worker_and_four_quantise_alike(
    optimised: ir.Model, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for cores in (1, 4):
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid, n=cores: set(range(n)))
        quantised = quantise("int8", optimised, calibration)
        digests.add((graph_digest(quantised.exact), graph_digest(quantised.lowered)))
    assert len(digests) == 1
