"""Latencies from plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.plan.devices import DEVICES, find_device, nearest_capability
from vit_edge.runtime.tools.plan.engine_plan import PlanAtBatch
from vit_edge.runtime.tools.plan.estimate import estimate
from vit_edge.runtime.tools.plan.layers import ELEMENTWISE, GEMM, EngineLayer, EngineTensor
from vit_edge.runtime.tools.plan.show import ESTIMATE_COLUMNS, advice, estimate_cells, estimate_rows

from .test_engine_plan import asked, plan
from .test_listing import listed

ADA = DEVICES["RTX 4060"]


def gemm(rows: int, dtype: str = "fp16", width: int = 4096) -> EngineLayer:
    a, b, c = (
        EngineTensor(n, s, dtype)
        for n, s in zip("abc", ((rows, width), (width, width), (rows, width)), strict=True)
    )
    return EngineLayer("gemm", GEMM, (a,), (b,), (c,), ("x/MatMul",), "", 0)


def copy(elements: int) -> EngineLayer:
    a, b = (EngineTensor(name, (elements,), "fp16") for name in "ab")
    return EngineLayer("copy", ELEMENTWISE, (a,), (), (b,), ("x/Add",), "", 0)


def milliseconds(*layers: EngineLayer, device: str = "RTX 4060") -> float:
    found = estimate(layers, 1, find_device(device))
    assert found is not None
    return found.milliseconds


def test_a_large_product_is_bound_by_arithmetic_and_a_copy_by_memory() -> None:
    found = estimate([gemm(8192)], 1, ADA)
    assert found is not None
    assert found.bound == "arithmetic"
    peak = 2 * 8192 * 4096**2 / (ADA.peaks["fp16"] * 1e9)
    assert peak < found.milliseconds < 2 * peak
    moved = estimate([copy(1 << 28)], 1, ADA)
    assert moved is not None
    assert moved.bound == "memory"
    assert moved.milliseconds == pytest.approx((1 << 30) / (0.8 * ADA.bandwidth * 1e6), rel=0.01)


def test_small_kernels_are_bound_by_their_launches() -> None:
    found = estimate([copy(16)] * 100, 1, ADA)
    assert found is not None
    assert found.bound == "launches"
    assert found.milliseconds == pytest.approx(100 * ADA.launch / 1000, rel=0.01)


def test_narrow_types_and_full_devices_are_faster() -> None:
    assert milliseconds(gemm(8192, "int8")) < 0.6 * milliseconds(gemm(8192))
    assert milliseconds(gemm(64), device="RTX 4090") > 0.2 * milliseconds(
        gemm(512), device="RTX 4090"
    )
    assert milliseconds(gemm(8192), device="RTX 4090") < milliseconds(gemm(8192))


def test_what_fits_into_the_cache_is_moved_faster() -> None:
    small, large = copy(1 << 20), copy(1 << 24)
    launch = ADA.launch / 1000
    assert 16 * (milliseconds(small) - launch) < 0.5 * (milliseconds(large) - launch)


def test_waits_cost_no_launch() -> None:
    wait = replace(copy(16), kind="wait")
    assert milliseconds(copy(16), wait) == milliseconds(copy(16))


def test_what_cannot_be_estimated_is_not() -> None:
    assert estimate([gemm(64, "fp8")], 1, DEVICES["A10"]) is None, "it has no units for FP8"
    assert estimate([gemm(-1)], 1, ADA) is None, "its size is not known"
    assert estimate([], 1, ADA) is None


def test_fewer_kernels_in_the_right_type_are_estimated_faster() -> None:
    for device in DEVICES.values():
        found = [estimate(listed(n), 8, device) for n in ("int8-saturated", "int8-together")]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].milliseconds < 0.95 * found[1].milliseconds, device.name


def test_devices_are_found_in_any_case_and_others_named() -> None:
    assert find_device(" orin nano ") is DEVICES["Orin Nano"]
    with pytest.raises(InputError, match=r"unknown device 'GT 710': choose from T4, .*Thor"):
        find_device("GT 710")


@pytest.mark.parametrize(
    ("capability", "nearest"),
    [("8.6", "8.6"), ("8.7", "8.6"), ("9.0", "8.9"), ("7.5", "8.6"), ("12.1", "12.0")],
)
def test_the_nearest_plan_is_the_highest_that_is_not_above(capability: str, nearest: str) -> None:
    assert nearest_capability(capability, ("8.9", "12.0", "8.6")) == nearest


def test_rows_and_what_they_advise() -> None:
    int8 = plan("int8-saturated", asked())
    half = replace(int8, batches=(PlanAtBatch(8, listed("int4")),))
    none = replace(int8, batches=())
    rows = estimate_rows({"fp16": half, "int8": int8, "fp8": none}, (ADA, DEVICES["T4"]))
    assert [(row.device, row.precision) for row in rows] == [
        ("RTX 4060", "fp16"), ("RTX 4060", "int8"), ("T4", "fp16"), ("T4", "int8"),
    ]  # fmt: skip
    assert all(len(estimate_cells(row)) == len(ESTIMATE_COLUMNS) for row in rows)
    lines = advice(rows)
    assert lines[0].startswith("RTX 4060, batch 8: int8 is the fastest; int8 takes 0.")
    refused = replace(rows[0], estimate=None)
    assert estimate_cells(refused)[3] == "no units for it"
