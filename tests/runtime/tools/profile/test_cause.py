"""The largest cause, of calls whose times are known."""

from __future__ import annotations

import pytest

from vit_edge.runtime.tools.profile.cause import largest_cause
from vit_edge.runtime.tools.profile.show import columns, fact_rows

from .works import not_faster, work

FP32 = work("fp32", p32=8.0, elementwise=2.0)


def test_products_that_stayed_wide() -> None:
    cause = largest_cause(
        work("int8", p8=1.0, p32=6.0, elementwise=2.0, wider=("head in 32 bits", "b in 32 bits")),
        FP32,
    )
    assert cause == (
        "matrix products in more than 8 bits still take 6 ms of a call (head in 32 bits and 1 more)"
    )
    fell = largest_cause(work("int8", p8=1.0, p32=6.0, elementwise=2.0, fallback=("a", "b")), FP32)
    assert fell.endswith("still take 6 ms of a call, 2 layers having fallen back")


def test_a_precision_that_is_computed_in_another() -> None:
    cause = largest_cause(work("fp16", p32=8.0, elementwise=2.0, casts=1.0), FP32)
    assert cause == "all its matrix products run in more than 16 bits, 8 ms of a call"


def test_narrow_products_that_are_slow() -> None:
    cause = largest_cause(work("int8", p8=7.5, p32=0.5, elementwise=2.2), FP32)
    assert (
        cause == "products in 8 bits take 7.5 ms, and those of fp32 that they replace only 7.5 ms"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("casts", "quantising, dequantising and casts take 5 ms, in fp32 0 ms"),
        ("moves", "transposes, reorders and copies take 5 ms, in fp32 0 ms"),
        ("launches", "launches take 5 ms, in fp32 0 ms"),
        ("other", "other operators take 5 ms, in fp32 0 ms"),
    ],
)
def test_what_came_beside_the_products(kind: str, words: str) -> None:
    assert largest_cause(work("int8", p8=4.0, elementwise=2.0, **{kind: 5.0}), FP32) == words


def test_attention_and_elementwise_operators_that_became_slower() -> None:
    cause = largest_cause(work("int8", p8=4.0, elementwise=6.0), FP32)
    assert cause == "attention, norms and elementwise operators take 6 ms, in fp32 2 ms"


def test_what_both_have_is_no_cause_however_much_it_is() -> None:
    cause = largest_cause(
        work("int8", p8=4.0, elementwise=9.0, casts=2.0), work("fp32", p32=8.0, elementwise=9.0)
    )
    assert cause.startswith("quantising")


def test_a_model_with_little_to_quantise() -> None:
    higher = work("fp32", p32=1.0, elementwise=9.0)
    cause = largest_cause(work("int8", p8=0.5, elementwise=9.0, casts=1.0), higher)
    assert cause == (
        "matrix products are only 10 % of a call in fp32, so that it could be 1.05 times as fast "
        "at most"
    )


def test_without_times_the_plan_tells() -> None:
    higher = work("fp16", kernels=100, bytes=50e6)
    cases = {
        "layers run in a wider type than the graph asks (a in fp16)": {
            "wider": ("a in fp16",), "dequantised": ("a",), "kernels": 200,
        },
        "weights are dequantised at every call (a and 1 more)": {
            "dequantised": ("a", "b"), "fallback": ("c",),
        },
        "of its layers 1 fell back (c)": {"fallback": ("c",), "kernels": 200},
        "a call runs 122 kernels, in fp16 100": {"kernels": 122, "bytes": 50e6},
        "its kernels move 48 MB, those of fp16 50 MB": {"kernels": 101, "bytes": 48e6},
        "neither its plan nor a profile shows why": {"kernels": 101, "bytes": 25e6},
    }  # fmt: skip
    for cause, facts in cases.items():
        assert largest_cause(work("int8", **facts), higher) == cause  # type: ignore[arg-type]


def test_an_engine_that_could_not_be_profiled() -> None:
    cause = largest_cause(work("int8", problem="no memory"), FP32)
    assert cause == "why is not known, for int8 could not be profiled: no memory"


def test_the_table_has_both_and_leaves_out_what_neither_has() -> None:
    slow = work(
        "int8", p8=3.0, p32=1.0, casts=4.0, elementwise=2.0, quantised=0.84, kernels=120,
        wider=("head in 32 bits", "patches in 32 bits"), fallback=("head",), bytes=12.3e6,
    )  # fmt: skip
    pair = not_faster(slow, FP32)
    assert columns(pair) == ("one image", "int8", "fp32")
    assert list(fact_rows(pair)) == [
        ("median", "10.00 ms", "10.00 ms"),
        ("8-bit products", "3.00 ms, 30 %", "-"),
        ("32-bit products", "1.00 ms, 10 %", "8.00 ms, 80 %"),
        ("quantise, dequantise, cast", "4.00 ms, 40 %", "-"),
        ("attention, norms, elementwise", "2.00 ms, 20 %", "2.00 ms, 20 %"),
        ("work quantised", "84 %", "-"),
        ("fell back", "1: head", "-"),
        ("layers in more bits", "2: head in 32 bits, ...", "-"),
        ("kernels", "120", "-"),
        ("bytes moved", "12.3 MB", "-"),
    ]
    assert pair.sentence == (
        "int8 on onnxruntime is not faster than fp32, 1 (0.98 to 1.02) times as fast: "
        "quantising, dequantising and casts take 4 ms, in fp32 0 ms."
    )
    assert pair.source == "a clock"


def test_an_interval_that_leaves_it_open_is_said() -> None:
    assert "is not clearly faster than fp32" in not_faster(FP32, FP32, 1.03).title
