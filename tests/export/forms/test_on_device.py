"""Forms that are proposed on a device, with TensorRT for RTX in earnest, told of a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_edge.export.forms import DEFAULT
from vit_edge.export.forms.on_device import AS_IT_IS, find_forms, ranked
from vit_edge.export.forms.search import Cost, FormTrial
from vit_edge.runtime.backends import BACKENDS, cuda
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()


def test_the_least_cost_comes_first_and_each_form_once() -> None:
    costs = {
        "faulty": Cost(1, 0.5, 1), "slow": Cost(0, 2.0, 1), "fast": Cost(0, 1.0, 9),
        "unknown": Cost(0, None, 1), "refused": None,
    }  # fmt: skip
    trials = [FormTrial({"qkv": name}, cost) for name, cost in costs.items()]
    order = [trial.form["qkv"] for trial in ranked([*trials, *trials])]
    assert order == ["fast", "slow", "unknown", "faulty"]


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_a_real_builder_ranks_them(bundle_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_problem", lambda: None)
    monkeypatch.setattr(cuda, "device_name", lambda: "NVIDIA L4 (8.9)")
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
    deployment = Deployment(Bundle.open(bundle_source))
    proposals = find_forms(deployment, Candidate("int8", RTX), 1, 9)
    names = [proposal.variant.name for proposal in proposals]
    assert f"{AS_IT_IS}, built for 8.9 alone" in names, "the bundle's engine is for several GPUs"
    assert names[-1] == "qkv: together, built for 8.9 alone", "its products run in fp16"
    assert all(
        proposal.about.endswith("estimated for its blocks that differ") for proposal in proposals
    )
    assert set(proposals[0].variant.settings) == set(DEFAULT)
    assert proposals[0].build is not None
    built = proposals[0].build()
    assert len(built.engine) > 1000
    assert built.products
    assert deployment.cache.findings() == {}, "nothing is kept before it was measured"
