"""Faults of any graph, whatever its precision: they are put into the fp32 graph, before it is
lowered or as if the exporter had made them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.export.graph_edit import add_initializer, array

from .edit import (
    Change,
    bypass,
    change_bias,
    change_input,
    change_weight,
    constant_side,
    insert_before,
    node_of,
    replace_operator,
    stream_side,
)

Array = NDArray[np.generic]
CONV = "patch_embed.proj/Conv"


# Pixels


def pixels_not_centred(model: ir.Model) -> None:
    bypass(model, node_of(model, "Sub"))


def channels_reversed(model: ir.Model) -> None:
    change_input(model, node_of(model, CONV), 1, lambda w: w[:, ::-1])


def normalised(
    model: ir.Model, mean: tuple[float, ...], std: tuple[float, ...], right: tuple[object, object]
) -> None:
    """With this mean and standard deviation in place of the right ones."""
    conv = node_of(model, CONV)
    assert conv.inputs[1] is not None
    old = [np.reshape(np.array(v, np.float64), (1, -1, 1, 1)) for v in right]
    new = [np.reshape(np.array(v, np.float64), (1, -1, 1, 1)) for v in (mean, std)]
    before = array(conv.inputs[1]).astype(np.float64)
    after = before * old[1] / new[1]
    moved = (after * (128 - 255 * new[0]) - before * (128 - 255 * old[0])).sum(axis=(1, 2, 3))
    change_input(model, conv, 1, lambda w: after)
    change_input(model, conv, 2, lambda b: b + moved)


def scaled_twice(model: ir.Model) -> None:
    """Divided by 255 once more."""
    change_input(model, node_of(model, CONV), 1, lambda w: w / 255)


def height_and_width_swapped(model: ir.Model) -> None:
    node_of(model, "Transpose").attributes["perm"] = ir.AttrInt64s("perm", [0, 3, 2, 1])


def patches_mirrored(model: ir.Model) -> None:
    change_input(model, node_of(model, CONV), 1, lambda w: w[..., ::-1])


# Embedding


def constant_zeroed(model: ir.Model, name: str) -> None:
    """A token or the position embeddings."""
    for use in list(model.graph.initializers[name].uses()):
        change_input(model, use.node, use.idx, np.zeros_like)


def positions_shifted(model: ir.Model) -> None:
    add = node_of(model, "Add")
    change_input(model, add, constant_side(add), lambda p: np.roll(p, 1, axis=1))


# Layers


def block_dropped(model: ir.Model, block: int) -> None:
    bypass(
        model, node_of(model, f"blocks.{block}/Add_2"), stream_side(model, f"blocks.{block}/Add")
    )


def attention_dropped(model: ir.Model, block: int) -> None:
    bypass(model, node_of(model, f"blocks.{block}/Add"), stream_side(model, f"blocks.{block}/Add"))


def mlp_dropped(model: ir.Model, block: int) -> None:
    bypass(
        model, node_of(model, f"blocks.{block}/Add_2"), stream_side(model, f"blocks.{block}/Add_2")
    )


def mlp_silenced(model: ir.Model, block: int) -> None:
    """It stays in the graph and adds nothing."""
    change_weight(model, f"blocks.{block}.mlp.fc2", np.zeros_like)
    change_bias(model, f"blocks.{block}.mlp.fc2", np.zeros_like)


def blocks_swapped(model: ir.Model, first: int, second: int) -> None:
    """Their weights."""
    nodes = {str(node.name): node for node in model.graph}
    for name, node in nodes.items():
        if name.startswith(f"blocks.{first}."):
            twin = nodes[name.replace(f"blocks.{first}.", f"blocks.{second}.", 1)]
            pairs = zip(list(node.inputs), list(twin.inputs), strict=True)
            for index, (mine, theirs) in enumerate(pairs):
                if mine is not None and theirs is not None and mine.is_initializer():
                    node.replace_input_with(index, theirs)
                    twin.replace_input_with(index, mine)


def bias_dropped(model: ir.Model, linear: str) -> None:
    change_bias(model, linear, np.zeros_like)


def weight_transposed(model: ir.Model, linear: str) -> None:
    change_weight(model, linear, lambda w: w.T)


def rows_rolled(model: ir.Model, linear: str, by: int) -> None:
    """Inputs of another head or channel."""
    change_weight(model, linear, lambda w: np.roll(w, by, axis=0))


# Activations and LayerNorms


def activation_replaced(model: ir.Model, name: str, op_type: str) -> None:
    replace_operator(model, name, op_type)


def epsilon_wrong(model: ir.Model, norm: str, epsilon: float) -> None:
    node = node_of(model, f"{norm}/LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)


def norm_gain_dropped(model: ir.Model, norm: str) -> None:
    change_input(model, node_of(model, f"{norm}/LayerNormalization"), 1, np.ones_like)


def norm_bias_dropped(model: ir.Model, norm: str) -> None:
    change_input(model, node_of(model, f"{norm}/LayerNormalization"), 2, np.zeros_like)


def norm_dropped(model: ir.Model, norm: str) -> None:
    bypass(model, node_of(model, f"{norm}/LayerNormalization"))


# Attention: the columns of QKV are those of Q, then K, then V


def softmax_over_queries(model: ir.Model, block: int) -> None:
    node = node_of(model, f"blocks.{block}.attn/Softmax")
    node.attributes["axis"] = ir.AttrInt64("axis", -2)


def softmax_dropped(model: ir.Model, block: int) -> None:
    bypass(model, node_of(model, f"blocks.{block}.attn/Softmax"))


def queries_scaled(model: ir.Model, block: int, factor: float) -> None:
    """The scale of attention forgotten, or applied twice."""

    def change(columns: Array) -> Array:
        columns[..., : columns.shape[-1] // 3] *= factor
        return columns

    _change_qkv(model, block, change)


def queries_and_keys_swapped(model: ir.Model, block: int) -> None:
    def change(columns: Array) -> Array:
        q, k, v = np.split(columns, 3, axis=-1)
        return np.concatenate([k, q, v], axis=-1)

    _change_qkv(model, block, change)


def heads_rolled(model: ir.Model, block: int, part: int, heads: int) -> None:
    """Q (0), K (1) or V (2) of the next head."""

    def change(columns: Array) -> Array:
        parts = np.split(columns, 3, axis=-1)
        parts[part] = np.roll(parts[part], parts[part].shape[-1] // heads, axis=-1)
        return np.concatenate(parts, axis=-1)

    _change_qkv(model, block, change)


def _change_qkv(model: ir.Model, block: int, change: Change) -> None:
    change_weight(model, f"blocks.{block}.attn.qkv", change)
    change_bias(model, f"blocks.{block}.attn.qkv", change)


# Readout


def class_zeroed(model: ir.Model, head: str, index: int) -> None:
    def change(rows: Array) -> Array:
        rows[index] = 0
        return rows

    change_input(model, node_of(model, f"{head}/Gemm"), 1, change)


def classes_permuted(model: ir.Model, head: str) -> None:
    for index in (1, 2):
        change_input(model, node_of(model, f"{head}/Gemm"), index, lambda x: np.roll(x, 1, axis=0))


def head_bias_dropped(model: ir.Model, head: str) -> None:
    change_input(model, node_of(model, f"{head}/Gemm"), 2, np.zeros_like)


def largest_pooled(model: ir.Model) -> None:
    """The maximum over tokens in place of their mean."""
    replace_operator(model, "ReduceMean", "ReduceMax")
    node_of(model, "ReduceMean").attributes["keepdims"] = ir.AttrInt64("keepdims", 0)


# Hidden from the structure


def stream_rounded(model: ir.Model, block: int, step: float) -> None:
    """The residual stream on a coarse grid, without a quantiser that could be seen."""
    norm = node_of(model, f"blocks.{block}.norm2/LayerNormalization")
    stream = node_of(model, f"blocks.{block}/Add").outputs[0]
    users = [(use.node, use.idx) for use in stream.uses()]
    size = add_initializer(model.graph, f"step.{block}", np.array(step, np.float32))
    steps = insert_before(model, norm, "Div", [stream, size], f"steps.{block}")
    whole = insert_before(model, norm, "Round", [steps], f"whole.{block}")
    rounded = insert_before(model, norm, "Mul", [whole, size], f"rounded.{block}")
    for node, index in users:
        node.replace_input_with(index, rounded)
