"""Engines whose builder's listing was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, Built, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.tools.plan.devices import DEVICES
from vit_edge.runtime.tools.plan.estimate import estimate
from vit_edge.runtime.tools.profile.cause import largest_cause
from vit_edge.runtime.tools.profile.kernels import CASTS, LAUNCHES, PRODUCTS
from vit_edge.runtime.tools.profile.show import fact_rows
from vit_edge.runtime.tools.profile.tensorrt import find_plan, known_device, with_plan
from vit_edge.runtime.tools.profile.work import EngineCall

from ...backends.rig import make_rig
from ..plan.test_engine_plan import asked, plan
from ..plan.test_listing import LISTINGS
from .works import not_faster

GPU = "NVIDIA L4 (8.9)"


def work(listing: str, precision: str = "int8", gpu: str = GPU) -> EngineCall:
    return with_plan(EngineCall(precision, "tensorrt-rtx", 1.0), plan(listing, asked()), gpu, 8)


def test_an_engine_that_runs_as_asked() -> None:
    found = work("int8-saturated")
    assert (found.kernels, found.kernels_per_block) == (32, 9.5)
    assert (found.wider, found.dequantised) == ((), ())
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares[PRODUCTS[8]] > 0.6
    assert CASTS not in found.shares
    layers = plan("int8-saturated", asked()).layers
    whole = estimate(layers, 8, DEVICES["L4"])
    assert whole is not None
    assert found.whole_ms == pytest.approx(whole.milliseconds)
    assert found.milliseconds(LAUNCHES) == pytest.approx(32 * 1.5e-3)
    assert found.memory_bound == pytest.approx(whole.moving)
    assert found.source == "the plan of tensorrt-rtx 1.7.1, times estimated for L4 at batch 8"


def test_layers_that_the_builder_widened_are_named_with_their_dequantisation() -> None:
    found, better = work("int8-together"), work("int8-saturated", "fp16")
    assert found.wider == ("blocks.0.attn.qkv in fp16", "blocks.1.attn.qkv in fp16")
    assert found.dequantised == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
    assert found.milliseconds(CASTS) > 0
    assert found.bytes == pytest.approx(243.8e6, rel=1e-3)
    rows = {name: (slow, higher) for name, slow, higher in fact_rows(not_faster(found, better))}
    assert rows["dequantised at each call"] == ("2: blocks.0.attn.qkv, ...", "-")
    assert rows["bytes moved"] == ("243.8 MB", "229.6 MB")
    assert rows["kernels"] == ("38", "32")
    assert rows["estimated"][0] != rows["median"][0] == "1.00 ms"


def test_a_gpu_that_no_data_sheet_is_known_of_has_counts_alone() -> None:
    found, better = work("int8-together", gpu="Orin (8.7)"), work("int8-saturated", "fp16", "Orin")
    assert (found.shares, found.memory_bound) == ({}, None)
    assert (found.kernels, found.bytes) == (38, pytest.approx(243.8e6, rel=1e-3))
    assert largest_cause(found, better) == (
        "layers run in a wider type than the graph asks (blocks.0.attn.qkv in fp16 and 1 more)"
    )


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA GeForce RTX 4060 Laptop GPU (8.9)", "RTX 4060"),
        ("NVIDIA RTX 6000 Ada Generation (8.9)", "RTX 6000 Ada"),
        ("NVIDIA A100-SXM4-80GB (8.0)", "A100"),
        ("NVIDIA Jetson Orin Nano Super (8.7)", "Orin Nano Super"),
        ("NVIDIA A10G (8.6)", None),
        ("Orin (8.7)", None),
    ],
)
def test_a_gpus_name_tells_its_data_sheet(name: str, device: str | None) -> None:
    found = known_device(name)
    assert (found.name if found else None) == device


def test_the_plan_is_that_of_the_engine_that_runs_here(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was built here, of which the device's cache has the listing."""
    rig = make_rig(monkeypatch, "10", max_batch=4)
    rig.library.__version__ = "10.99"
    listing = (LISTINGS / "int8-together.txt").read_text()

    def compile_here(self: TensorRT, onnx: bytes, spec: EngineSpec, options: BuildOptions) -> Built:
        return Built(onnx, listing, asked())

    monkeypatch.setattr(TensorRT, "compile", compile_here)
    deployment = Deployment(Bundle.open(bundle_source))
    candidate = Candidate("int8", BACKENDS["tensorrt"])
    deployment.build(candidate, BuildOptions())
    found = find_plan(deployment, candidate)
    assert found is not None
    assert found.library == "tensorrt 10.99"
    assert found.summary().dequantised == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")


def test_the_bundles_own_engine_brings_its_plan(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = BACKENDS["tensorrt-rtx"]
    if rtx.build_problem() is not None:
        pytest.skip(str(rtx.build_problem()))
    monkeypatch.setattr(cuda, "device_problem", lambda: None)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
    deployment = Deployment(Bundle.open(bundle_source))
    candidate = Candidate("int8", rtx)
    found = find_plan(deployment, candidate)
    assert found is not None
    known = with_plan(EngineCall("int8", rtx.name, 0.1), found, GPU, 1)
    assert known.shares[PRODUCTS[8]] > 0
    assert known.source.endswith("times estimated for L4 at batch 1")
    assert replace(known, shares={}).kernels == found.summary().kernels
