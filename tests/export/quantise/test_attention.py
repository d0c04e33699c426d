"""Q/DQ around attention's products, at the places where TensorRT fuses them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.measure import simulate
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.precision import find_precision
from vit_edge.export.quantise.attention import attention_tensors, balance_all, find_attentions
from vit_edge.export.quantise.grid import INT8_GRID
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.variants import Variant
from vit_edge.vit.vision_transformer import VisionTransformer

from ...calibrate import calibrate
from ..graphs import relative_error, run

PRECISIONS = ("int8_attention", "fp8_attention")


def graph_of(model: VisionTransformer, variant: Variant) -> ir.Model:
    graph = export_onnx(model, variant.preprocess, "logits")
    optimise(graph)
    return graph


def with_uneven_heads(model: VisionTransformer) -> VisionTransformer:
    """The same function: channels of Q and K are larger and smaller by up to 128."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for block in changed.blocks:
            qkv, width = block.attn.qkv, model.config.embed_dim
            factor = 2.0 ** torch.randint(-7, 8, (width,), generator=torch.manual_seed(0))
            for part, scale in ((0, factor), (1, 1 / factor)):
                rows = slice(part * width, (part + 1) * width)
                qkv.weight[rows] *= scale[:, None]
                qkv.bias[rows] *= scale
    return changed


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_operand_and_the_softmax_carry_a_quantiser(
    optimised: ir.Model, calibration: Calibration, name: str
) -> None:
    graph = find_precision(name).lower(optimised, calibration)["gpu"].graph
    producers = {"DequantizeLinear", "Reshape"}
    softmax, single = [n for n in graph if n.op_type == "Softmax"]
    (quantise,) = softmax.outputs[0].consumers()
    assert quantise.op_type == "QuantizeLinear"
    (dequantise,) = quantise.outputs[0].consumers()
    (mixed,) = dequantise.outputs[0].consumers()
    scores = softmax.inputs[0].producer()
    assert scores is not None
    for value in (*scores.inputs, *mixed.inputs):
        assert value.producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    after = mixed.outputs[0]
    while (node := next(iter(after.consumers()))).op_type in ("Transpose", *producers):
        after = node.outputs[0]
    assert node.op_type == "QuantizeLinear"  # the projection's input
    (mixed,) = single.outputs[0].consumers()
    assert mixed.op_type == "MatMul", "a single query's stays in 16 bits"


@pytest.mark.parametrize("name", PRECISIONS)
def test_it_stays_close(
    optimised: ir.Model, calibration: Calibration, frames: np.ndarray, name: str
) -> None:
    lowered = simulate(find_precision(name).lower(optimised, calibration)["gpu"])
    assert relative_error(run(lowered, frames), run(optimised, frames)) < 0.1


def test_uneven_heads_are_levelled_and_the_graph_computes_the_same(
    model: VisionTransformer, variant: Variant, photographs: ImageSet, frames: np.ndarray
) -> None:
    precision = find_precision("int8_attention")
    even, uneven = graph_of(model, variant), graph_of(with_uneven_heads(model), variant)
    expected = run(even, frames)
    found = calibrate(uneven, photographs.subset(range(24)), DEFAULT_METHOD, ("int8_attention",))
    balanced = uneven.clone()
    done = balance_all(balanced.graph, found, INT8_GRID)
    assert len(done) == 2, "Q and K of the block that has more than one query"
    assert relative_error(run(balanced, frames), expected) < 1e-5
    error = relative_error(run(simulate(precision.lower(uneven, found)["gpu"]), frames), expected)
    plain = calibrate(uneven, photographs.subset(range(24)), "minmax", ("int8_attention",))
    lost = relative_error(run(simulate(precision.lower(uneven, plain)["gpu"]), frames), expected)
    assert error < 0.1
    assert lost > 2 * error


def test_even_heads_are_left_alone(optimised: ir.Model, calibration: Calibration) -> None:
    assert balance_all(optimised.clone().graph, calibration, INT8_GRID) == {}


def test_heads_that_no_kernel_takes_are_refused(variant: Variant) -> None:
    odd = replace(variant.config, n_heads=8)
    size = odd.embed_dim // odd.n_heads
    assert size not in (16, 32, 64)
    graph = graph_of(VisionTransformer.from_config(odd), variant)
    with pytest.raises(InputError, match=rf"heads of {size}: TensorRT fuses"):
        attention_tensors(graph.graph)


def test_attentions_are_named_after_their_modules(optimised: ir.Model) -> None:
    names = [attention.name for attention in find_attentions(optimised.graph)]
    assert names == ["blocks.0.attn", "blocks.1.attn"]
