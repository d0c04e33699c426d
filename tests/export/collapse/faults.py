"""The catalogue of faults: what is broken, in which model, in which precision, and where it must be
found.

The rule for what is a fault: it does harm. The answers of the broken graph are at least
`tests.export.collapse.test_faults.HARM` times further from PyTorch's than those of the sound graph
of the same model and precision. What does less is left out, such as a scale of the whole Q/DQ pair
that is somewhat larger than it need be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from vit_edge.export.collapse.limits import EXPORT, FINITE, LOCAL, STRUCTURE
from vit_edge.vit.hints import HALF, IMAGENET

from . import graph_faults as g
from . import quantiser_faults as q

INTO_EXPORT, BEFORE_LOWERING, AFTER_LOWERING = "export", "before", "after"
"""When a fault comes in: into the fp32 graph that everything is made of; into what a precision
lowers, while the fp32 graph is sound; into the lowered graph.
"""


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        model: A name in `tests.export.collapse.models`.
        graph: A precision, with ".gpu" for its graph for GPUs.
        when: See above.
        break_it: Changes a graph in place.
        check: Which check must find it.
        module: How the module that the first fault names must start.
        label: Of the test.
    """

    model: str
    graph: str
    when: str
    break_it: Callable[[ir.Model], None]
    check: str
    module: str
    label: str


def _case(
    model: str,
    graph: str,
    when: str,
    found: tuple[str, str],
    fault: Callable[..., None],
    *args: object,
) -> Case:
    words = [getattr(a, "__name__", str(a)) for a in args]
    label = "-".join([model, graph, fault.__name__, *words]).replace(" ", "_")
    return Case(model, graph, when, partial(_apply, fault, args), *found, label)


def _apply(fault: Callable[..., None], args: tuple[object, ...], model: ir.Model) -> None:
    fault(model, *args)


def _export(model: str, fault: Callable[..., None], *args: object) -> Case:
    return _case(model, "fp32", INTO_EXPORT, (EXPORT, ""), fault, *args)


def _before(model: str, graph: str, module: str, fault: Callable[..., None], *args: object) -> Case:
    return _case(model, graph, BEFORE_LOWERING, (LOCAL, module), fault, *args)


def _lost(model: str, graph: str, module: str, fault: Callable[..., None], *args: object) -> Case:
    return _case(model, graph, BEFORE_LOWERING, (STRUCTURE, module), fault, *args)


def _after(model: str, graph: str, module: str, fault: Callable[..., None], *args: object) -> Case:
    return _case(model, graph, AFTER_LOWERING, (LOCAL, module), fault, *args)


def _seen(model: str, graph: str, module: str, fault: Callable[..., None], *args: object) -> Case:
    return _case(model, graph, AFTER_LOWERING, (STRUCTURE, module), fault, *args)


HEAD_ROOT = math.sqrt(16)
"""Of the test models' head size."""

PIXELS = [
    _export("plain", g.pixels_not_centred),
    _export("plain", g.channels_reversed),
    _export("plain", g.normalised, HALF[0], IMAGENET[1], IMAGENET),
    _export("plain", g.normalised, IMAGENET[0], HALF[1], IMAGENET),
    _export("plain", g.normalised, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), IMAGENET),
    _export("plain", g.scaled_twice),
    _export("plain", g.height_and_width_swapped),
    _export("plain", g.patches_mirrored),
    _export("digits", g.normalised, (0.45,), (0.5,), ((0.5,), (0.5,))),
    _export("digits", g.normalised, (0.5,), (0.25,), ((0.5,), (0.5,))),
    _export("digits", g.height_and_width_swapped),
    _before("CLIP", "fp16", "embedding", g.channels_reversed),
    _before("DINOv2", "int8", "embedding", g.channels_reversed),
    _before("average", "bf16", "embedding", g.channels_reversed),
    _before("plain", "int8.gpu", "embedding", g.normalised, HALF[0], IMAGENET[1], IMAGENET),
    _before("CLIP", "int8", "embedding", g.normalised, IMAGENET[0], HALF[1], IMAGENET),
    _before("digits", "bf16", "embedding", g.normalised, (0.45,), (0.5,), ((0.5,), (0.5,))),
    _before("digits", "fp16", "embedding", g.pixels_not_centred),
    _before("QK norm", "int8", "embedding", g.height_and_width_swapped),
    _before("layer scale", "int8", "embedding", g.patches_mirrored),
]
EMBEDDING = [
    _export("plain", g.constant_zeroed, "cls_token"),
    _export("plain", g.constant_zeroed, "pos_embed"),
    _export("digits", g.positions_shifted),
    _export("DINOv2", g.constant_zeroed, "reg_token"),
    _export("CLIP", g.norm_dropped, "norm_pre"),
    _before("DINOv2", "int8", "embedding", g.constant_zeroed, "reg_token"),
    _before("plain", "int8", "embedding", g.constant_zeroed, "cls_token"),
    _before("digits", "fp16", "embedding", g.constant_zeroed, "pos_embed"),
    _before("average", "fp16", "embedding", g.positions_shifted),
    _before("CLIP", "int8", "embedding", g.norm_gain_dropped, "norm_pre"),
]
LAYERS = [
    _export("plain", g.block_dropped, 1),
    _export("QK norm", g.attention_dropped, 0),
    _export("average", g.mlp_dropped, 2),
    _export("digits", g.blocks_swapped, 0, 2),
    _export("plain", g.bias_dropped, "blocks.1.attn.qkv"),
    _lost("plain", "int8", "blocks.2", g.block_dropped, 2),
    _lost("digits", "fp16", "blocks.1", g.block_dropped, 1),
    _lost("average", "bf16", "blocks.3", g.block_dropped, 3),
    _lost("DINOv2", "int8.gpu", "blocks.0.attn", g.attention_dropped, 0),
    _lost("CLIP", "int8", "blocks.2.attn", g.attention_dropped, 2),
    _lost("layer scale", "int8", "blocks.1.mlp", g.mlp_dropped, 1),
    _lost("QK norm", "fp16", "blocks.3.mlp", g.mlp_dropped, 3),
    _before("plain", "int8", "blocks.1.mlp", g.mlp_silenced, 1),
    _before("layer scale", "bf16", "blocks.2.mlp", g.mlp_silenced, 2),
    _before("digits", "int8", "blocks.1", g.blocks_swapped, 1, 2),
    _before("average", "fp16", "blocks.0", g.blocks_swapped, 0, 3),
    _before("plain", "int8", "blocks.1.attn.qkv", g.bias_dropped, "blocks.1.attn.qkv"),
    _before("CLIP", "int8", "blocks.0.attn", g.bias_dropped, "blocks.0.attn.proj"),
    _before("CLIP", "int8", "blocks.2.mlp.fc1", g.bias_dropped, "blocks.2.mlp.fc1"),
    _before("average", "int8", "blocks.1.attn", g.weight_transposed, "blocks.1.attn.proj"),
    _before("QK norm", "int8", "blocks.2.attn", g.rows_rolled, "blocks.2.attn.proj", 16),
    _before("plain", "fp16", "blocks.0.mlp", g.rows_rolled, "blocks.0.mlp.fc2", 1),
    _before("plain", "int8", "blocks.1.mlp.fc1", g.stream_rounded, 1, 2.0),
]
ACTIVATIONS = [
    _export("plain", g.activation_replaced, "blocks.1.mlp.act/Gelu", "Relu"),
    _export("DINOv2", g.activation_replaced, "blocks.0.mlp/Sigmoid", "Tanh"),
    _export("digits", g.epsilon_wrong, "blocks.0.norm1", 1e-1),
    _export("plain", g.norm_gain_dropped, "blocks.1.norm2"),
    _export("average", g.norm_bias_dropped, "norm"),
    _before(
        "plain", "int8", "blocks.2.mlp", g.activation_replaced, "blocks.2.mlp.act/Gelu", "Relu"
    ),
    _before(
        "digits", "fp16", "blocks.1.mlp", g.activation_replaced, "blocks.1.mlp.act/Gelu", "Identity"
    ),
    _before(
        "average",
        "int8.gpu",
        "blocks.0.mlp",
        g.activation_replaced,
        "blocks.0.mlp.act/Gelu",
        "Tanh",
    ),
    _before(
        "CLIP", "int8", "blocks.1.mlp", g.activation_replaced, "blocks.1.mlp.act/Sigmoid", "Tanh"
    ),
    _before(
        "DINOv2", "bf16", "blocks.3.mlp", g.activation_replaced, "blocks.3.mlp/Sigmoid", "Relu"
    ),
    _before("plain", "int8", "blocks.0.mlp.fc1", g.epsilon_wrong, "blocks.0.norm2", 0.9),
    _before("QK norm", "fp16", "blocks.1.attn.qkv", g.epsilon_wrong, "blocks.1.norm1", 1e-1),
    _before("QK norm", "fp16", "blocks.2.attn", g.norm_gain_dropped, "blocks.2.attn.q_norm"),
    _before("plain", "fp16", "blocks.3.attn.qkv", g.norm_gain_dropped, "blocks.3.norm1"),
    _before("layer scale", "int8", "blocks.0.mlp.fc1", g.norm_bias_dropped, "blocks.0.norm2"),
    _before("digits", "int8", "output", g.norm_gain_dropped, "norm"),
]
ATTENTION = [
    _export("plain", g.softmax_over_queries, 1),
    _export("digits", g.queries_scaled, 0, HEAD_ROOT),
    _export("average", g.heads_rolled, 1, 2, 4),
    _before("plain", "int8", "blocks.0.attn", g.softmax_over_queries, 0),
    _before("DINOv2", "fp16", "blocks.1.attn", g.softmax_over_queries, 1),
    _before("CLIP", "int8", "blocks.2.attn", g.softmax_dropped, 2),
    _before("digits", "int8", "blocks.1.attn.qkv", g.queries_scaled, 1, HEAD_ROOT),
    _before("average", "int8.gpu", "blocks.2.attn.qkv", g.queries_scaled, 2, 1 / HEAD_ROOT),
    _before("plain", "bf16", "blocks.0.attn.qkv", g.queries_and_keys_swapped, 0),
    _before("QK norm", "int8", "blocks.1.attn.qkv", g.queries_and_keys_swapped, 1),
    _before("layer scale", "int8", "blocks.1.attn.qkv", g.heads_rolled, 1, 0, 4),
    _before("DINOv2", "int8", "blocks.2.attn.qkv", g.heads_rolled, 2, 1, 4),
    _before("plain", "int8", "blocks.2.attn", g.heads_rolled, 2, 2, 4),
    _before("CLIP", "fp16", "blocks.3.attn", g.heads_rolled, 3, 2, 4),
]
READOUT = [
    _export("plain", g.class_zeroed, "head", 3),
    _export("digits", g.classes_permuted, "head"),
    _export("average", g.largest_pooled),
    _export("CLIP", g.norm_dropped, "norm"),
    _before("digits", "int8", "output", g.class_zeroed, "head", 7),
    _before("plain", "fp16", "output", g.classes_permuted, "head"),
    _before("average", "bf16", "output", g.head_bias_dropped, "head"),
    _before("CLIP", "int8.gpu", "output", g.class_zeroed, "pre_logits.fc", 0),
    _lost("plain", "int8", "norm", g.norm_dropped, "norm"),
    _before("average", "int8", "output", g.largest_pooled),
]
N1, N2 = "blocks.{}.norm1/LayerNormalization", "blocks.{}.norm2/LayerNormalization"
ATTENDED, GELU = "blocks.{}.attn/Reshape_4", "blocks.{}.mlp.act/Gelu@shifted"
SCALES = [
    _after("plain", "int8", "blocks.0.attn.qkv", q.activation_scale, N1.format(0), 1 / 8),
    _after("digits", "int8", "blocks.1.mlp.fc1", q.activation_scale, N2.format(1), 1 / 8),
    _after("QK norm", "int8", "blocks.2.attn", q.activation_scale, ATTENDED.format(2), 1 / 8),
    _after("average", "int8.gpu", "blocks.3.mlp", q.activation_scale, GELU.format(3), 1 / 8),
    _after("plain", "int8", "blocks.1.attn.qkv", q.activation_scale, N1.format(1), 1 / 2),
    _after("CLIP", "int8", "blocks.1.mlp.fc1", q.activation_scale, N2.format(1), 1 / 3),
    _after("layer scale", "int8", "blocks.1.mlp", q.activation_scale, GELU.format(1), 64),
    _after("plain", "int8", "blocks.2.attn.qkv", q.activation_scale, N1.format(2), 32),
    _seen("plain", "int8", "blocks.0", q.dequantiser_scale, N1.format(0), 1.25),
    _seen("digits", "int8", "blocks.2", q.dequantiser_scale, N2.format(2), 2),
    _seen("average", "int8.gpu", "blocks.1", q.dequantiser_scale, GELU.format(1), 0.5),
    _seen("CLIP", "int8", "blocks.3", q.quantiser_scale, N1.format(3), 1.25),
    _seen("DINOv2", "int8", "blocks.2", q.quantiser_scale, ATTENDED.format(2), 2),
    _after("layer scale", "int8", "blocks.1", q.scales_swapped, N1.format(1), ATTENDED.format(1)),
    _seen("plain", "int8", "blocks.0", q.activation_zero_point, N1.format(0), 100),
    _seen("QK norm", "int8", "blocks.1", q.activation_zero_point, GELU.format(1), 64),
    _seen("digits", "int8", "blocks.1", q.dequantiser_zero_point, N1.format(1), 8),
    _seen("average", "int8", "blocks.2", q.dequantiser_zero_point, N2.format(2), 4),
    _seen("plain", "int8", "blocks.0", q.scale_not_constant, N1.format(0)),
]
WEIGHTS = [
    _after("plain", "int8", "blocks.1.attn.qkv", q.weight_column_scale, "blocks.1.attn.qkv", 5, 4),
    _after("QK norm", "int8", "blocks.2.mlp.fc1", q.weight_column_scale, "blocks.2.mlp.fc1", 99, 8),
    _after("CLIP", "int8", "blocks.0.mlp", q.weight_column_scale, "blocks.0.mlp.fc2", 10, 4),
    _after(
        "average", "int8.gpu", "blocks.3.attn", q.weight_column_scale, "blocks.3.attn.proj", 2, 4
    ),
    _after("QK norm", "int8", "blocks.0.attn", q.weight_scale, "blocks.0.attn.proj", q.permuted),
    _after("plain", "int8", "blocks.2.mlp.fc1", q.weight_scale, "blocks.2.mlp.fc1", q.permuted),
    _after("digits", "int8", "blocks.3.attn.qkv", q.weight_scale, "blocks.3.attn.qkv", q.reversed_),
    _after("DINOv2", "int8", "blocks.1.mlp", q.weight_scale, "blocks.1.mlp.fc2", q.one_for_all),
    _after(
        "plain", "int8", "blocks.0.attn.qkv", q.weight_scale, "blocks.0.attn.qkv", q.one_for_all
    ),
    _seen("plain", "int8", "blocks.1", q.weight_zero_point, "blocks.1.mlp.fc2", 20),
    _seen("CLIP", "int8", "blocks.2", q.weight_zero_point, "blocks.2.mlp.fc2", 10),
    _after("plain", "int8", "blocks.0.attn", q.integers, "blocks.0.attn.proj", q.transposed),
    _after("digits", "int8", "blocks.1.mlp.fc1", q.integers, "blocks.1.mlp.fc1", q.next_rows),
    _after("average", "int8", "blocks.2.mlp", q.integers, "blocks.2.mlp.fc2", q.next_rows),
    _after("plain", "int8.gpu", "blocks.3.mlp", q.integers, "blocks.3.mlp.fc2", q.signs_flipped),
    _after(
        "layer scale", "int8", "blocks.0.attn", q.integers, "blocks.0.attn.qkv", q.signs_flipped
    ),
    _after("CLIP", "int8", "blocks.1.mlp.fc1", q.integers, "blocks.1.mlp.fc1", q.four_bits),
    _after("QK norm", "int8", "blocks.3.mlp", q.integers, "blocks.3.mlp.fc2", q.seven_bits_wrapped),
    _after("DINOv2", "int8", "blocks.0.attn", q.integers, "blocks.0.attn.proj", q.block_transposed),
    _after("plain", "int8", "blocks.2.attn.qkv", g.bias_dropped, "blocks.2.attn.qkv"),
    _after("CLIP", "int8", "blocks.0.mlp", g.bias_dropped, "blocks.0.mlp.fc2"),
    _after("plain", "int8", "blocks.1.attn.qkv", q.smoothing_forgotten, "blocks.1.norm1", 4),
    _after("average", "int8", "blocks.0.mlp.fc1", q.smoothing_forgotten, "blocks.0.norm2", 2),
]
STREAM = [
    _seen("large", "int8", "blocks.1", q.stream_quantised, "blocks.1/Add", 1e5),
    _seen("plain", "int8", "blocks.0", q.stream_quantised, "blocks.0/Add_2", 60.0),
    _seen("large", "int8", "blocks.1", q.residual_side_quantised, "blocks.2/Add", 2e5),
    _seen("CLIP", "int8", "blocks.3", q.residual_side_quantised, "blocks.3/Add_2", 80.0),
]
SIXTEEN_BITS = [
    _case("large", "fp16", BEFORE_LOWERING, (STRUCTURE, "blocks.0"), q.decompose_layer_norms),
    _lost("large", "all fp16", "blocks.0", q.decompose_layer_norms),
    _case("large", "all fp16", AFTER_LOWERING, (FINITE, "patch_embed"), q.nothing),
    _case(
        "digits",
        "fp16",
        BEFORE_LOWERING,
        (FINITE, "blocks.1.mlp"),
        q.overflowing,
        "blocks.1.mlp.fc1",
        1e5,
    ),
    _before("plain", "fp16", "blocks.1.mlp.fc1", q.mantissa_cut, "blocks.1.mlp.fc1", 5),
    _before("plain", "bf16", "blocks.2.attn", q.mantissa_cut, "blocks.2.attn.proj", 2),
    _before("plain", "fp16", "blocks.0.mlp.fc1", q.underflowing, "blocks.0.mlp.fc1", 1e7),
    _before("average", "fp16", "blocks.2.attn", q.underflowing, "blocks.2.attn.proj", 1e7),
]
CASES = [
    *PIXELS,
    *EMBEDDING,
    *LAYERS,
    *ACTIVATIONS,
    *ATTENTION,
    *READOUT,
    *SCALES,
    *WEIGHTS,
    *STREAM,
    *SIXTEEN_BITS,
]
