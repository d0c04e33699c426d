"""The ViT's relatives go the same way: exact passes, Linears found, engines built."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from tests.specs import engine_spec
from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.precision import PRECISIONS
from vit_edge.runtime.backends import BACKENDS, BuildOptions
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.datasets import samples
from vit_edge.vit.hints import IMAGENET
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.vision_transformer import VisionTransformer

from ..calibrate import calibrate
from .graphs import relative_error, run

RELATIVES = {
    "DINOv2": {"block": BlockOptions(layer_scale=True), "num_classes": 0},
    "DINOv2 with registers and SwiGLU": {
        "embedding": EmbeddingOptions(registers=3),
        "block": BlockOptions(layer_scale=True, mlp="swiglu"),
        "readout": ReadoutOptions(pool="class_token_and_mean"),
    },
    "SwiGLU, class token": {"block": BlockOptions(layer_scale=True, mlp="swiglu")},
    "CLIP": {
        "num_classes": 0,
        "embedding": EmbeddingOptions(norm=True),
        "block": BlockOptions(norm_eps=1e-5, mlp="quick_gelu"),
        "readout": ReadoutOptions(representation_size=24, representation="linear"),
    },
    "DeiT": {
        "embedding": EmbeddingOptions(distillation_token=True),
        "readout": ReadoutOptions(pool="class_and_distillation"),
    },
    "QK norm": {"block": BlockOptions(qk_norm=True)},
    "mean": {"embedding": EmbeddingOptions(False), "readout": ReadoutOptions(pool="mean")},
    "mean, then norm": {
        "embedding": EmbeddingOptions(False, registers=2),
        "readout": ReadoutOptions(pool="mean_then_norm"),
    },
    "JAX pre-training": {
        "block": BlockOptions(mlp="gelu_tanh"),
        "readout": ReadoutOptions(representation_size=48),
    },
    "not square": {"img_size": (24, 40)},
    "no QKV bias": {"qkv_bias": False},
}


def shaken(**changes: object) -> VisionTransformer:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "n_heads": 2}
    config = ViTConfig(**{"num_classes": 10, **sizes, **changes})  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = VisionTransformer.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", RELATIVES)
def test_graph_gives_what_pytorch_gives(name: str) -> None:
    model = shaken(**RELATIVES[name])
    preprocess = Preprocess(*model.config.image_size, 3, 1.0, "bicubic", *IMAGENET)
    graph = export_onnx(model, preprocess, "out")
    frames = next(samples("evaluation", preprocess).batches(6))
    with torch.inference_mode():
        expected = model(normalise(frames, preprocess)).numpy()
    assert relative_error(run(graph, frames), expected) < 1e-5
    optimise(graph)
    assert relative_error(run(graph, frames), expected) < 1e-5
    assert len(find_linears(graph.graph)) == 4 * model.config.depth


@pytest.mark.parametrize("name", ["DINOv2", "SwiGLU, class token", "CLIP", "QK norm"])
def test_last_block_computes_the_class_token_only(name: str) -> None:
    model = shaken(**RELATIVES[name])
    graph = export_onnx(model, Preprocess(32, 32, 3, 1.0, "bicubic", *IMAGENET), "out")
    optimise(graph)
    tokens = {linear.name: linear.output.shape[1] for linear in find_linears(graph.graph)}
    assert tokens["blocks.1.attn.qkv"] == 17
    assert tokens["blocks.1.attn.proj"] == tokens["blocks.1.mlp.fc1"] == 1
    assert tokens["blocks.1.mlp.fc2"] == 1


def test_layer_scale_leaves_no_trace() -> None:
    model = shaken(**RELATIVES["DINOv2"])
    graph = export_onnx(model, Preprocess(32, 32, 3, 1.0, "bicubic", *IMAGENET), "out")
    optimise(graph)
    assert "Mul" not in {node.op_type for node in graph.graph}


@pytest.mark.parametrize("name", ["DINOv2 with registers and SwiGLU", "CLIP", "DeiT", "not square"])
def test_engines_are_built_in_every_precision(name: str) -> None:
    backend = BACKENDS["tensorrt-rtx"]
    problem = backend.build_problem()
    if problem:
        pytest.skip(problem)
    model = shaken(**RELATIVES[name])
    preprocess = Preprocess(*model.config.image_size, 3, 1.0, "bicubic", *IMAGENET)
    graph = export_onnx(model, preprocess, "out")
    optimise(graph)
    images = samples("calibration", preprocess).subset(range(8))
    calibration = calibrate(graph, images, DEFAULT_METHOD, tuple(PRECISIONS))
    spec = engine_spec("images", "out", preprocess.shape, model.config.outputs, (1, 2, 4))
    for precision in PRECISIONS.values():
        lowered = ir.to_proto(precision.lower(graph, calibration)["gpu"]).SerializeToString()
        assert len(backend.compile(lowered, spec, BuildOptions()).engine) > 10_000
