"""What an engine's plan says of it, against what its graph asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from vit_edge.runtime.backends.base import AskedProduct, Built
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.tools.plan.devices import DEVICES
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan, PlanAtBatch, decode_plan, plan_of
from vit_edge.runtime.tools.plan.listing import read_layers
from vit_edge.runtime.tools.plan.show import (
    estimate_cells,
    estimate_rows,
    plan_cells,
    shortfall,
)

from .inspected import ASKED, TEN
from .test_listing import LISTINGS

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def asked(weights: str = "INT8", activations: str = "INT8") -> tuple[AskedProduct, ...]:
    """What the graph of the recorded listings asks."""
    products = [AskedProduct("patch_embed.proj/Conv", ("HALF", "HALF"), True)]
    for block in range(3):
        name = f"blocks.{block}"
        linears = [
            AskedProduct(f"{name}.{linear}/MatMul", (activations, weights), True)
            for linear in LINEARS
        ]
        attention = [
            AskedProduct(f"{name}.attn/MatMul{n}", ("HALF", "HALF"), False) for n in ("", "_2")
        ]
        products += [linears[0], *attention, *linears[1:]]
    return (*products, AskedProduct("head/Gemm", ("HALF", "HALF"), True))


def plan(name: str, products: tuple[AskedProduct, ...]) -> EnginePlan:
    built = Built(b"", (LISTINGS / f"{name}.txt").read_text(), products)
    return plan_of("tensorrt-rtx 1.7.1", built, [PlanAtBatch(8, read_layers(built.listing))])


def test_an_engine_that_does_what_is_asked() -> None:
    summary = plan("int8-saturated", asked()).summary()
    assert (summary.unmet, summary.dequantised, shortfall(summary)) == ((), (), "")
    assert (summary.attentions, summary.fused_attentions) == (3, 3)
    assert (summary.kernels, summary.kernels_per_block) == (32, 9.5)
    assert summary.linear_work == pytest.approx({"int8": 0.953, "fp16": 0.047}, abs=1e-3)
    assert (summary.copies, summary.waits, summary.batch) == (2, 0, 8)
    assert summary.bytes == pytest.approx(229.6e6, rel=1e-3)


def test_layers_that_run_in_another_type_are_named() -> None:
    summary = plan("int8-together", asked()).summary()
    assert summary.unmet == ("blocks.0.attn.qkv in fp16", "blocks.1.attn.qkv in fp16")
    assert summary.dequantised == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
    assert summary.linear_work["fp16"] == pytest.approx(0.258, abs=1e-3)
    assert shortfall(summary) == "blocks.0.attn.qkv in fp16 (and 3 more)"


def test_weights_alone_may_be_quantised() -> None:
    assert plan("int4", asked("INT4", "HALF")).summary().unmet == ()
    wide = plan("int8-together", asked("INT4", "HALF")).summary()
    assert "the weights of blocks.0.attn.proj in 8 bits" not in wide.unmet
    assert "blocks.0.attn.proj in int8" in wide.unmet


def test_a_quantised_layer_that_no_kernel_is_known_of_is_not_taken_for_met() -> None:
    other = AskedProduct("blocks.9.mlp.fc1/MatMul", ("INT8", "INT8"), True)
    assert plan("int8-saturated", (*asked(), other)).summary().unmet == ("blocks.9.mlp.fc1 in ?",)


def test_attention_that_is_asked_for_in_8_bits_and_runs_in_16_is_named() -> None:
    products = tuple(
        product if product.weights else replace(product, operands=("INT8", "INT8"))
        for product in asked()
    )
    unmet = plan("int8-saturated", products).summary().unmet
    assert unmet == tuple(f"blocks.{block}.attn in fp16" for block in range(3))


def test_an_inspected_engine_is_read_the_same_way() -> None:
    summary = plan_of("tensorrt 10", Built(b"", json.dumps(TEN), ASKED)).summary()
    assert summary.unmet == ("proj in fp16",)
    assert (summary.fused_attentions, summary.batch) == (1, 0)
    assert summary.linear_work == pytest.approx({"int8": 1 / 3, "fp16": 1 / 3, "?": 1 / 3})


def test_a_plan_is_kept_as_it_is() -> None:
    kept = plan("int8-together", asked())
    assert decode_plan(kept.encode()) == kept
    assert kept.batches == (PlanAtBatch(8, kept.layers),)


def changed(value: Any) -> Iterator[Any]:
    """`value`, JSON, with one leaf after the other made into something hostile."""
    hostile = (None, -1, 0, 10**39, "", "?", "x" * 70_000, [], {}, [0, 8], [10**39], 1e308)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: other} for other in changed(inner))
    elif isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in changed(value[0]))
    yield from hostile


def test_a_hostile_plan_is_refused_or_read_and_nothing_else() -> None:
    whole = plan("int8-together", asked())
    picked = [next(x for x in whole.layers if x.kind == kind) for kind in ("attention", "gemm")]
    picked += [next(x for x in whole.layers if x.kind == "convolution")]
    for layer in picked:
        small = replace(whole, layers=(layer,), batches=(PlanAtBatch(8, (layer,)),))
        value, refused = json.loads(small.encode()), 0
        for other in changed(value):
            try:
                read = decode_plan(json.dumps(other).encode())
            except BundleError:
                refused += 1
                continue
            plan_cells(read.summary())
            for row in estimate_rows({"x": read}, tuple(DEVICES.values())):
                estimate_cells(row)
        assert refused > 200


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 5000, b'{"library": 3}'])
def test_a_damaged_plan_is_one_clear_error(raw: bytes) -> None:
    with pytest.raises(BundleError, match="an engine's plan is not valid"):
        decode_plan(raw)


def test_an_engine_without_a_listing_has_a_row_too() -> None:
    cells = plan_cells(None)
    assert cells[0] == "not listed by its builder"
    assert len(cells) == len(plan_cells(plan("int4", asked("INT4", "HALF")).summary()))
