from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_edge.runtime.backends import find_backend
from vit_edge.runtime.backends.cpu import instruction_sets
from vit_edge.runtime.backends.openvino import OpenVino
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.tools.profile.kernels import (
    CASTS,
    ELEMENTWISE,
    MOVES,
    OTHER,
    PRODUCTS,
    Kernel,
    layer_name,
)
from vit_edge.runtime.tools.profile.openvino import kind_of, profile, read_counters


def kernels(path: Path, precision: str) -> list[Kernel]:
    deployment, backend = Deployment(Bundle.open(path)), find_backend("openvino")
    assert isinstance(backend, OpenVino)
    (candidate,) = deployment.candidates(precision, "openvino")
    blob = deployment.load(candidate)
    assert blob is not None
    return profile(backend, blob, deployment.bundle.manifest.spec, 1, 0.02)


@pytest.mark.skipif(
    not any(name.endswith(("vnni", "amx_int8")) for name in instruction_sets()),
    reason="OpenVINO multiplies floats where a CPU has no 8-bit instructions",
)
def test_an_8_bit_graph_multiplies_8_bits_and_leaves_patches_and_head(bundle_source: Path) -> None:
    found = kernels(bundle_source, "int8")
    eight = {layer_name(k.name) for k in found if k.kind == PRODUCTS[8]}
    wide = [layer_name(k.name) for k in found if k.kind in (PRODUCTS[16], PRODUCTS[32])]
    assert len(eight) == 16
    assert "blocks.0.mlp.fc1" in eight
    assert len(wide) == 2
    assert "patch_embed.proj" in wide
    assert any(kernel.kind == ELEMENTWISE for kernel in found)
    assert not any(kernel.kind == OTHER for kernel in found)


def test_an_fp32_graph_multiplies_32_bits_alone(bundle_source: Path) -> None:
    found = kernels(bundle_source, "fp32")
    products = [kernel for kernel in found if kernel.kind in PRODUCTS.values()]
    assert {kernel.kind for kernel in products} == {PRODUCTS[32]}
    assert len(products) == 18


def counter(microseconds: int, executed: bool = True) -> Any:
    """A counter of OpenVINO, by the names that we read."""
    status = SimpleNamespace(EXECUTED=1, NOT_RUN=2)
    return SimpleNamespace(
        node_name="a", node_type="MVN", exec_type="jit_avx512_f32", Status=status,
        status=status.EXECUTED if executed else status.NOT_RUN,
        real_time=timedelta(microseconds=microseconds),
    )  # fmt: skip


def test_counters_are_means_of_all_calls_of_which_the_first_are_left_out() -> None:
    """10 calls: one of 9000 us, two of 30, then seven of 20.4; and a kernel of 0.4 us."""
    first = [counter(9000), counter(7), counter(0, executed=False)]
    warm = [counter(3020), counter(2), counter(0)]
    last = [counter(920), counter(0, executed=False), counter(3)]
    found = read_counters(first, warm, last, 10)
    assert len(found) == 2
    assert found[0].microseconds == pytest.approx(20.4, abs=1)
    assert found[1].microseconds == 0


@pytest.mark.parametrize(
    ("node", "implementation", "kind"),
    [
        ("FullyConnected", "brgemm_avx512_amx_bf16", PRODUCTS[16]),
        ("FullyConnected", "gemm_mlas_f32", PRODUCTS[32]),
        ("FullyConnected", "gemm_acl_f16", PRODUCTS[16]),
        ("FullyConnectedQuantizedLegacy", "brgemm_avx512_i8", PRODUCTS[8]),
        ("Convolution", "brgconv_avx512_amx_1x1_I8", PRODUCTS[8]),
        ("Convolution", "jit_avx512_FP32", PRODUCTS[32]),
        ("Convolution", "undef", OTHER),
        ("MatMul", "brgemm_avx512_i8", ELEMENTWISE),
        ("Subgraph", "jit_avx512_bf16", ELEMENTWISE),
        ("ReduceMean", "jit_avx512_f32", ELEMENTWISE),
        ("FakeQuantize", "jit_avx512_f32", CASTS),
        ("Reorder", "reorder_f32", MOVES),
        ("SomethingNew", "ref_f32", OTHER),
    ],
)
def test_kinds_of_nodes(node: str, implementation: str, kind: str) -> None:
    assert kind_of(node, implementation) == kind
