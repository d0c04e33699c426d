"""A graph that costs nothing, for tests of what is around it."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.specs import engine_spec
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import OutputSpec

MAX_BATCH = 8
SPEC = engine_spec("images", "logits", (4, 4, 3), 5, (1, 4, MAX_BATCH))
_WEIGHTS = np.random.default_rng(0).integers(-9, 9, (48, 5)).astype(np.float32)


@cache
def tiny_graph() -> bytes:
    """uint8 `[batch, 4, 4, 3]` -> float32 `[batch, 5]`: one Linear of whole numbers, exact."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(_WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


def tiny_frames(count: int, seed: int = 1) -> np.ndarray:
    shape = (count, *SPEC.image_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tiny_scores(frames: np.ndarray) -> np.ndarray:
    """What the graph gives, by numpy."""
    return frames.reshape(len(frames), -1).astype(np.float32) @ _WEIGHTS


SEVERAL = EngineSpec(
    "images",
    (
        OutputSpec("logits", "logits", (5,)),
        OutputSpec("depth", "map", (4, 4)),
        OutputSpec("score", "value", ()),
    ),
    (4, 4, 3),
    (1, 4, MAX_BATCH),
)


@cache
def graph_of_several() -> bytes:
    """The same with two more outputs: red, float32 `[batch, 4, 4]`, and its sum `[batch]`."""
    model = onnx.load_from_string(tiny_graph())
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "sides"))
    graph.node.append(helper.make_node("Gather", ["pixels", "first"], ["depth"], axis=3))
    graph.node.append(helper.make_node("ReduceSum", ["depth", "sides"], ["score"], keepdims=0))
    for name, shape in (("depth", ["batch", 4, 4]), ("score", ["batch"])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model.SerializeToString()


def values_of_several(frames: np.ndarray) -> dict[str, np.ndarray]:
    """What that graph gives, by numpy."""
    red = frames[..., 0].astype(np.float32)
    return {"logits": tiny_scores(frames), "depth": red, "score": red.sum(axis=(1, 2))}
