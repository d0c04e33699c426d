"""Every fault of the catalogue is found, by the check that should and where it is."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from tests.specs import compare_logits
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.collapse import Fault, find_export_faults, find_faults
from vit_edge.export.collapse.limits import EXPORT, STRUCTURE
from vit_edge.export.measure import predict, simulate, sixteen_bit_types

from .faults import AFTER_LOWERING, CASES, GELU, INTO_EXPORT, Case
from .models import Built
from .quantiser_faults import activation_scale
from .workshop import Workshop, limits_of

HARM = 1.8


def broken_graph(case: Case, workshop: Workshop) -> ir.Model:
    if case.when == AFTER_LOWERING:
        lowered = workshop.sound(case.model, case.graph, method_of(case)).clone()
        case.break_it(lowered)
        return lowered
    changed = workshop.built(case.model).fp32.clone()
    case.break_it(changed)
    if case.when == INTO_EXPORT:
        return changed
    return workshop.lower(case.model, case.graph, changed, method_of(case))


def method_of(case: Case) -> str:
    """Graphs that are broken before they are lowered are lowered one by one, the quick way."""
    return DEFAULT_METHOD if case.when == AFTER_LOWERING else "minmax"


def check(case: Case, broken: ir.Model, built: Built) -> tuple[Fault, ...]:
    if case.check == EXPORT:
        return find_export_faults(broken, built.images, built.reference, built.scale)
    return find_faults(
        broken, built.fp32, built.images, built.reference, built.scale, limits_of(case.graph)
    )


def harm(graph: ir.Model, built: Built) -> float:
    """How far the answers are from PyTorch's."""
    computable = simulate(graph) if sixteen_bit_types(graph) else graph
    return compare_logits(predict(computable, built.images), built.reference, None).rms_error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_fault_is_found_where_it_is(case: Case, workshop: Workshop) -> None:
    built, broken = workshop.built(case.model), broken_graph(case, workshop)
    found = [fault for fault in check(case, broken, built) if fault.check == case.check]
    assert found, "not found"
    assert found[0].module.startswith(case.module), [str(fault) for fault in found]
    if case.check != STRUCTURE:  # what the structure forbids is a fault in any case
        sound = workshop.sound(case.model, case.graph, method_of(case))
        assert not harm(broken, built) < HARM * harm(sound, built), "no fault: it does no harm"


def test_catalogue_is_large_and_has_no_fault_twice() -> None:
    assert len({case.label for case in CASES}) == len(CASES) >= 100
    assert len({case.model for case in CASES}) >= 4


def test_a_range_that_clips_a_centred_activation_is_named(workshop: Workshop) -> None:
    built, broken = workshop.built("average"), workshop.sound("average", "int8").clone()
    activation_scale(broken, GELU.format(1), 1 / 8)
    limits = limits_of("int8")
    found = find_faults(broken, built.fp32, built.images, built.reference, built.scale, limits)
    assert any("clipped: a range that is too small" in fault.what for fault in found)
