from __future__ import annotations

import pytest

from vit_edge.runtime.tools.profile.kernels import (
    CASTS,
    MOVES,
    PRODUCTS,
    Kernel,
    layer_name,
    per_block,
    product_bits,
    product_kind,
    quiet_means,
    shares,
)


def test_shares_add_up_and_leave_out_what_takes_no_time() -> None:
    kernels = [
        Kernel("a", PRODUCTS[8], 30.0), Kernel("b", CASTS, 10.0), Kernel("c", PRODUCTS[8], 60.0),
        Kernel("d", MOVES, 0.0),
    ]  # fmt: skip
    assert shares(kernels) == {PRODUCTS[8]: 0.9, CASTS: 0.1}
    assert shares([Kernel("a", MOVES, 0.0)]) == {}
    assert shares([]) == {}


def test_each_width_has_a_kind() -> None:
    assert [product_kind(bits) for bits in (4, 8, 16, 32, 64)] == [
        f"{bits}-bit products" for bits in (4, 8, 16, 32, 32)
    ]
    assert [product_bits(kind) for kind in (PRODUCTS[16], CASTS)] == [16, None]


def test_a_kernel_that_was_interrupted_now_and_then_is_not_the_slow_one() -> None:
    calls = [[1.0, 5.0] for _ in range(8)]
    calls[2][0] = 400.0
    calls[5][0] = 300.0
    assert quiet_means(calls) == [1.0, 5.0]


def test_a_clock_of_whole_microseconds_still_gives_parts_of_them() -> None:
    assert quiet_means([[float(i % 2)] for i in range(8)]) == [0.5]
    assert quiet_means([[3.0]]) == [3.0]


def test_kernels_of_a_block_are_counted_where_their_names_tell_it() -> None:
    blocks = [f"encoder.blocks.{i}.{part}/Op" for i in range(3) for part in "abcd"]
    assert per_block([*blocks, "patch_embed/Conv"]) == 4
    assert per_block([*blocks, *(f"node_{i}" for i in range(12))]) is None
    assert per_block(["blocks.0.a/Op", "blocks.0.b/Op"]) is None
    assert per_block([]) is None


@pytest.mark.parametrize(
    ("kernel", "layer"),
    [
        ("blocks.0.attn.qkv/MatMul", "blocks.0.attn.qkv"),
        ("InsertedPrecisionFreeCast_patch_embed.proj/Conv_nchwc", "patch_embed.proj"),
        ("node_linear_3", "node_linear_3"),
        ("a/b", "a/b"),
    ],
)
def test_a_kernels_name_tells_its_layer(kernel: str, layer: str) -> None:
    assert layer_name(kernel) == layer
