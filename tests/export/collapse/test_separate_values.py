"""Queries, keys and values as Linears of their own, as transformers writes them.

Smoothing may scale all columns of such values. Their faults are found, and there is no false alarm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from tests import oracles
from vit_edge.export.collapse import Fault, find_faults
from vit_edge.export.collapse.limits import LOCAL, STRUCTURE
from vit_edge.export.foreign.rebuild import rebuild
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.graph_edit import array
from vit_edge.export.measure import predict
from vit_edge.export.passes import optimise
from vit_edge.export.precision import PRECISIONS, Graphs
from vit_edge.runtime.outputs import spread
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.datasets import samples
from vit_edge.vit.hints import HALF

from ...calibrate import calibrate
from ...vit.checkpoints.parity import shake
from ..foreign.files import FACTS, OLD_14, Output, write
from .edit import change_bias, node_of, weight_dequantiser
from .quantiser_faults import integers, weight_column_scale, weight_scale, weight_zero_point
from .workshop import limits_of

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
VALUES, READER = "model.vit.layers.1.attention.v_proj", "model.vit.layers.1.attention.o_proj"
OUTLIERS, SMOOTHED = 40.0, 2.0
NAMES = ("int8", "fp16")

Break = Callable[[ir.Model], None]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """Two channels of every V are outliers, so that values are smoothed."""
    library = oracles.transformers()
    config = library.ViTConfig(**SIZES, patch_size=8, intermediate_size=128, num_labels=10)
    config._attn_implementation = "eager"
    model = shake(Output(library.ViTForImageClassification(config), "logits"))
    for name, parameter in model.named_parameters():
        if "v_proj" in name:
            parameter.data[:2].mul_(OUTLIERS)
        elif "o_proj.weight" in name:
            parameter.data[:, :2].div_(OUTLIERS / 4)
    path = write(model, tmp_path_factory.mktemp("vit") / "vit.onnx", OLD_14, (3, 32, 32))
    graph = prepare(path)
    rebuild(graph, find_foreign_source(path, FACTS).preprocess)
    optimise(graph)
    return graph


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return samples("evaluation", Preprocess(32, 32, 3, 1.0, "bicubic", *HALF)).subset(range(48))


@pytest.fixture(scope="module")
def lowered(fp32: ir.Model, images: ImageSet) -> dict[str, Graphs]:
    calibration = calibrate(fp32, images.subset(range(16, 48)), "search", NAMES)
    return {name: PRECISIONS[name].lower(fp32, calibration) for name in NAMES}


def faults(broken: ir.Model, fp32: ir.Model, images: ImageSet, name: str) -> tuple[Fault, ...]:
    few = images.subset(range(16))
    expected = predict(fp32, few)
    return find_faults(broken, fp32, few, expected, spread(expected), limits_of(name))


@pytest.mark.parametrize(
    ("name", "kind"), [("int8", "cpu"), ("int8", "gpu"), ("fp16", "gpu")], ids=str
)
def test_no_false_alarm(
    name: str, kind: str, fp32: ir.Model, images: ImageSet, lowered: dict[str, Graphs]
) -> None:
    assert faults(lowered[name][kind], fp32, images, name) == ()


def test_the_values_are_smoothed(fp32: ir.Model, lowered: dict[str, Graphs]) -> None:
    """Else the other tests would say nothing about scales that are taken back."""
    integers_of, scales, _ = weight_dequantiser(lowered["int8"]["cpu"], READER).inputs
    assert integers_of is not None
    assert scales is not None
    rows = np.abs(array(integers_of) * array(scales)).sum(axis=1)
    before = np.abs(array(node_of(fp32, f"{READER}/MatMul").inputs[1])).sum(axis=1)
    assert (rows / before).max() > SMOOTHED * np.median(rows / before)


def _lose_column(weight: np.ndarray) -> np.ndarray:
    weight[:, 5] = 0
    return weight


def _halve_row(weight: np.ndarray) -> np.ndarray:
    weight[5] //= 2
    return weight


@pytest.mark.parametrize(
    ("break_it", "check", "what"),
    [
        (lambda m: weight_scale(m, VALUES, lambda s: 1.05 * s), LOCAL, "the output gain"),
        (lambda m: weight_column_scale(m, VALUES, 5, 2.0), LOCAL, "1 of 62 channels"),
        (lambda m: integers(m, VALUES, _lose_column), LOCAL, "1 of 62 channels"),
        (lambda m: integers(m, READER, _halve_row), LOCAL, "1 of 62 channels"),
        (lambda m: change_bias(m, VALUES, lambda b: 0 * b), LOCAL, "constant"),
        (lambda m: weight_zero_point(m, VALUES, 3), STRUCTURE, "zero point"),
    ],
    ids=["scale", "column", "lost channel", "half a smoothing", "lost bias", "zero point"],
)
def test_a_fault_of_the_values_is_found_there(
    break_it: Break,
    check: str,
    what: str,
    fp32: ir.Model,
    images: ImageSet,
    lowered: dict[str, Graphs],
) -> None:
    broken = lowered["int8"]["cpu"].clone()
    break_it(broken)
    there = [
        fault
        for fault in faults(broken, fp32, images, "int8")
        if fault.check == check and fault.module == VALUES
    ]
    assert there
    assert what in there[0].what
