from __future__ import annotations

import pytest

from vit_edge.runtime.tools.compare.comparison import ComparedRow
from vit_edge.runtime.tools.compare.recommend import recommend

from .tables import failed, row

EXACT, HALF, EIGHT = 2e-7, 2e-4, 6e-3
"""Errors as fp32, fp16 and int8 have them."""


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            [row("int8", 1.0, EIGHT), row("fp32", 2.0, EXACT)], "int8", id="clearly-faster"
        ),
        pytest.param(
            [row("fp32", 1.0, EXACT), row("int8", 1.3, EIGHT)], "fp32", id="quantised-slower"
        ),
        pytest.param(
            [row("int8", 1.0, EIGHT), row("fp32", 1.015, EXACT, noise=0.002)],
            "fp32",
            id="within-two-percent",
        ),
        pytest.param(
            [row("int8", 1.0, EIGHT), row("fp32", 1.08, EXACT, noise=0.1)],
            "fp32",
            id="within-noise",
        ),
        pytest.param(
            [row("int8", 1.0, EIGHT), row("fp32", 1.08, EXACT, noise=0.03)],
            "int8",
            id="beyond-noise",
        ),
        pytest.param(
            [row("int8", 1.0, EIGHT), row("fp16", 1.01, HALF), row("fp32", 1.4, EXACT)],
            "fp16",
            id="the-middle-ties",
        ),
        pytest.param(
            [
                row("fp32", 1.0, 3e-7, size=100),
                row("fp32", 1.01, 2e-7, size=100, backend="openvino"),
            ],
            "fp32",
            id="rounding-errors-are-alike",
        ),
        pytest.param(
            [row("int8", 1.0, EIGHT, size=30), row("int4", 1.0, 1.5 * EIGHT, size=15)],
            "int4",
            id="as-faithful-and-smaller",
        ),
        pytest.param(
            [row("int8", 0.5, 1e-9, status="failed: the device fell off"), row("fp32", 1.0, EXACT)],
            "fp32",
            id="wrong-is-never-chosen",
        ),
        pytest.param([failed("int8"), row("fp32", 1.0, EXACT)], "fp32", id="not-opened"),
        pytest.param([failed("int8")], None, id="nothing-right"),
        pytest.param([], None, id="nothing"),
        pytest.param(
            [row("int8", 1.0, None), row("fp32", 1.0, EXACT)], "fp32", id="unknown-error-loses"
        ),
        pytest.param(
            [
                row("fp32", 1.0, EXACT),
                row("int8", 1.3, EIGHT),
                row("fp32", 1.5, EXACT, batch=8, scenario="Offline"),
                row("int8", 1.0, EIGHT, batch=8, scenario="Offline"),
            ],
            "fp32",
            id="a-single-stream-decides",
        ),
    ],
)
def test_the_engine_to_use(rows: list[ComparedRow], expected: str | None) -> None:
    assert recommend(rows).precision == expected
    assert recommend(rows[::-1]).precision == expected


@pytest.mark.parametrize("faster", ["openvino", "onnxruntime"])
def test_in_a_tie_of_twins_the_order_of_backends_decides(faster: str) -> None:
    """Not the median, which another measurement turns round."""
    twins = [
        row("fp32", 1.0 if faster == name else 1.01, 2e-7, backend=name)
        for name in ("onnxruntime", "openvino")
    ]
    chosen = recommend(twins)
    assert chosen.backend == "openvino"
    assert "the order of backends decides" in chosen.why


def test_the_reason_has_the_numbers() -> None:
    why = recommend([row("int8", 1.0, EIGHT), row("fp32", 2.0, EXACT)]).why
    assert "One image takes 10 ms (p90 11 ms), 2 (1.9 to 2.1) times as fast as fp32" in why
    assert "99.50 % agreement and a relative RMS error of 0.006" in why
    assert "Next comes fp32 on onnxruntime with 20 ms, 2 (2 to 2) times the fastest" in why


def test_large_numbers_have_no_powers_of_ten() -> None:
    why = recommend([row("fp32", 1234.4, EXACT)]).why
    assert "One image takes 12,344 ms (p90 13,578 ms)" in why


def test_a_tie_is_said_and_what_decided_it() -> None:
    why = recommend([row("int8", 1.0, EIGHT), row("fp32", 1.01, EXACT, noise=0.02)]).why
    assert "int8 on onnxruntime is level with it within noise" in why
    assert "1.01 (0.99 to 1.03) times the latency of int8 on onnxruntime" in why
    assert "answers nearer to the reference decide (their error is 0.006)" in why


def test_a_rival_with_a_lower_p90_is_named() -> None:
    steady = row("fp32", 1.2, EXACT, p90_ms=10.0, p90_interval=(9.8, 10.2), backend="openvino")
    jumpy = row("fp32", 1.0, EXACT, p90_ms=30.0, p90_interval=(25.0, 35.0))
    chosen = recommend([jumpy, steady])
    assert chosen.backend == "onnxruntime"
    assert "By p90, MLPerf's measure of a single stream, fp32 on openvino is ahead" in chosen.why
    assert "ahead" not in recommend([row("fp32", 1.0, EXACT), row("int8", 1.2, EIGHT)]).why


def test_what_must_not_be_used_is_named() -> None:
    assert "Not to be used: int8 on onnxruntime." in (
        recommend([failed("int8"), row("fp32", 1.0, EXACT)]).why
    )
    assert "do not use it on this device" in recommend([failed("int8")]).why
