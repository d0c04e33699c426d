"""No false alarm: sound lowerings of many models, seeds, precisions and calibration methods."""

from __future__ import annotations

import pytest

from vit_edge.calibration.observers import METHODS
from vit_edge.export.collapse import find_export_faults, find_faults

from .models import CONFIGS
from .workshop import Workshop, limits_of

GRAPHS = ("fp32", "fp16", "bf16", "int8", "int8.gpu")
FEW_BITS = ("int8_attention", "fp8", "fp8_attention", "int4", "nvfp4", "nvfp4_weights")
SEARCHED = [
    *[(name, graph) for name in ("digits", "digits, outliers") for graph in GRAPHS],
    *[(name, graph) for name in CONFIGS for graph in GRAPHS[1:]],
    *[(f"{name}, {seed}", graph) for name in CONFIGS for seed in (1, 2) for graph in GRAPHS[1:]],
    *[(f"{name}, outliers", graph) for name in ("CLIP",) for graph in GRAPHS],
    *[("large", graph) for graph in GRAPHS],
    *[(name, graph) for name in ("digits", *CONFIGS) for graph in FEW_BITS],
]
OBSERVED = [(name, method) for name in ("digits", *CONFIGS) for method in METHODS]


def faults(name: str, graph: str, workshop: Workshop, method: str = "search") -> list[str]:
    built = workshop.built(name)
    lowered = workshop.sound(name, graph, method)
    found = find_faults(
        lowered, built.fp32, built.images, built.reference, built.scale, limits_of(graph)
    )
    return [str(fault) for fault in found]


@pytest.mark.parametrize(("name", "graph"), SEARCHED)
def test_no_false_alarm(name: str, graph: str, workshop: Workshop) -> None:
    assert faults(name, graph, workshop) == []


@pytest.mark.parametrize(("name", "method"), OBSERVED)
def test_no_false_alarm_whatever_the_observer(name: str, method: str, workshop: Workshop) -> None:
    assert faults(name, "int8", workshop, method) == []


@pytest.mark.parametrize("name", ["digits", "large", *CONFIGS])
def test_no_false_alarm_of_the_export(name: str, workshop: Workshop) -> None:
    built = workshop.built(name)
    assert find_export_faults(built.fp32, built.images, built.reference, built.scale) == ()


@pytest.mark.parametrize("name", ["digits, outliers", "CLIP, outliers"])
def test_plain_min_max_collapses_on_outliers(name: str, workshop: Workshop) -> None:
    """The reason for smoothing; every block is hit, and the cause is named."""
    found = faults(name, "int8", workshop, "minmax")
    assert len(found) > 4
    assert any("is off by" in fault or "relative error" in fault for fault in found)
