"""Convolutions of a hybrid: quantised, left alone, and fallen back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.collapse import find_faults
from vit_edge.export.foreign.rebuild import rebuild
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.graph_edit import array
from vit_edge.export.measure import predict, simulate
from vit_edge.export.passes import optimise
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.quantise.layers import CONVOLUTIONS, apply_fallback, count_work, find_layers
from vit_edge.runtime.outputs import spread
from vit_edge.runtime.tools.images import ImageSet

from ...calibrate import calibrate
from ...vit.checkpoints.parity import shake
from ..foreign.files import FACTS, OLD_17_DYNAMIC, write
from ..graphs import quantise

WIDTH = 32


class _Hybrid(nn.Module):
    """A stem, a residual block with a depthwise convolution, and one attention over its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, 4)
        self.down = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)
        self.wide, self.narrow = nn.Conv2d(WIDTH, 64, 1), nn.Conv2d(64, WIDTH, 1)
        self.depthwise = nn.Conv2d(64, 64, 3, 1, 1, groups=64)
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x).relu())
        x = x + self.narrow(self.depthwise(self.wide(x).relu()).relu())
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) / 8).softmax(-1) @ v
        return self.head(mixed.mean(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hybrid") / "model.onnx"
    write(shake(_Hybrid()), path, OLD_17_DYNAMIC, (3, 32, 32))
    graph = prepare(path)
    rebuild(graph, find_foreign_source(path, FACTS).preprocess)
    optimise(graph)
    return graph


def _error(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((outputs - expected) ** 2).mean())) / spread(expected)


def _read_quantised(graph: ir.Graph) -> set[str]:
    convolutions = [node for node in graph if node.op_type == "Conv"]
    return {
        str(node.name).partition("/")[0]
        for node in convolutions
        if all(v is not None and v.producer() is not None
               and v.producer().op_type == "DequantizeLinear" for v in node.inputs[:2])
    }  # fmt: skip


@pytest.mark.parametrize("method", [DEFAULT_METHOD, "minmax"])
def test_all_but_the_first_are_quantised(
    fp32: ir.Model, photographs: ImageSet, method: str
) -> None:
    few = photographs.subset(range(16))
    graphs = PRECISIONS["int8"].lower(fp32, calibrate(fp32, few, method, ("int8",)))
    expected = predict(fp32, few)
    for kind, graph in graphs.items():
        names = _read_quantised(graph.graph)
        assert names == {"down", "wide", "depthwise", "narrow"}
        outputs = predict(simulate(graph) if kind == "gpu" else graph, few)
        assert _error(outputs, expected) < 0.1
        assert 0.2 < count_work(graph.graph).shares[CONVOLUTIONS] < 1


def test_weights_have_a_scale_for_each_output_and_biases_give_back_the_mean(
    fp32: ir.Model, photographs: ImageSet
) -> None:
    few = photographs.subset(range(16))
    pair = quantise("int8", fp32, calibrate(fp32, few, DEFAULT_METHOD))
    for node in (n for n in pair.lowered.graph if n.op_type == "Conv"):
        weight = node.inputs[1]
        dequantise = weight.producer() if weight is not None else None
        if dequantise is not None:
            scale = dequantise.inputs[1]
            assert scale is not None
            assert array(scale).shape == (weight.shape[0],)  # type: ignore[union-attr,index]
    mean = [predict(model, few).mean(axis=0) for model in (pair.exact, pair.lowered)]
    assert np.abs(mean[0] - mean[1]).max() < 0.03 * np.ptp(mean[0])


def test_a_layer_that_reads_what_another_one_writes_falls_back_alone(
    fp32: ir.Model, photographs: ImageSet
) -> None:
    few = photographs.subset(range(8))
    pair = quantise("int8", fp32, calibrate(fp32, few, DEFAULT_METHOD))
    layers = find_layers(pair.exact.graph, pair.lowered.graph)
    names = [layer.name for layer in layers]
    assert names == ["down", "wide", "depthwise", "narrow", "qkv"]
    for kept in names:
        alone = pair.lowered.clone()
        apply_fallback(pair.exact, alone, layers, [name for name in names if name != kept])
        assert _read_quantised(alone.graph) == {kept} - {"qkv"}
        nodes = [node.name for node in alone.graph]
        assert len(set(nodes)) == len(nodes)
        assert predict(alone, few).shape == (8, 10)


def test_a_wrong_scale_of_a_convolution_is_found(fp32: ir.Model, photographs: ImageSet) -> None:
    few, int8 = photographs.subset(range(16)), PRECISIONS["int8"]
    calibration, expected = calibrate(fp32, few, DEFAULT_METHOD, ("int8",)), predict(fp32, few)
    size = spread(expected)
    sound = int8.lower(fp32, calibration)["cpu"]
    assert find_faults(sound, fp32, few, expected, size, int8.limits) == ()
    for name in ("down", "wide", "depthwise", "narrow"):
        broken = sound.clone()
        node = next(n for n in broken.graph if str(n.name).startswith(f"{name}/Conv"))
        scale = node.inputs[1].producer().inputs[1]  # type: ignore[union-attr]
        assert scale is not None
        scale.const_value = ir.tensor(array(scale) * np.float32(1.25), name=scale.name)
        assert find_faults(broken, fp32, few, expected, size, int8.limits), name
