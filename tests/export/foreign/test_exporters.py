"""Models of four libraries through both of PyTorch's exporters end as our own exporter's graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from tests import oracles
from vit_edge.export.foreign.evaluate import OnnxRunner
from vit_edge.export.foreign.rebuild import rebuild, require_same, run_original
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.passes import optimise
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.quantise.linear_layers import quantisable
from vit_edge.vit.vision_transformer import VisionTransformer

from ...vit.checkpoints.parity import shake
from ..graphs import count, relative_error, run
from .files import (
    FACTS,
    NEW_18,
    NEW_20_DYNAMIC,
    NEW_23_DYNAMIC,
    OLD_11,
    OLD_14,
    OLD_14_DYNAMIC,
    OLD_17_DYNAMIC,
    Exporter,
    Output,
    write,
)

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
DECOMPOSED = {"Erf", "Tanh", "Pow", "Sqrt", "Div", "ReduceMean", "Where", "Squeeze", "Unsqueeze"}


def _timm() -> nn.Module:
    layout = oracles.timm().models.vision_transformer.VisionTransformer
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    return shake(layout(num_classes=10, mlp_ratio=2, **sizes))


def _torchvision() -> nn.Module:
    layout = oracles.torchvision().models.vision_transformer.VisionTransformer
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4}
    return shake(layout(hidden_dim=64, mlp_dim=128, num_classes=10, **sizes))


def _vit(attention: str) -> nn.Module:
    library = oracles.transformers()
    config = library.ViTConfig(**SIZES, intermediate_size=128, num_labels=10)
    config._attn_implementation = attention
    return shake(Output(library.ViTForImageClassification(config), "logits"))


def _dinov2() -> nn.Module:
    library = oracles.transformers()
    config = library.Dinov2Config(**SIZES, mlp_ratio=2, num_labels=10)
    config._attn_implementation = "sdpa"
    return shake(Output(library.Dinov2ForImageClassification(config), "logits"))


def _clip() -> nn.Module:
    library = oracles.transformers()
    config = library.CLIPVisionConfig(**SIZES, intermediate_size=128, projection_dim=16)
    config._attn_implementation = "eager"
    return shake(Output(library.CLIPVisionModelWithProjection(config), "image_embeds"))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "vit eager": lambda: _vit("eager"),
    "vit sdpa": lambda: _vit("sdpa"),
    "dinov2": _dinov2,
    "clip": _clip,
}


def _rebuilt(path: Path) -> tuple[ir.Model, ir.Model]:
    """The file as it is, and as it is exported."""
    source, original, model = find_foreign_source(path, FACTS), prepare(path), prepare(path)
    rebuild(model, source.preprocess)
    optimise(model)
    assert require_same(original, model, source.preprocess) < 1e-5
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (expected,) = run_original(OnnxRunner(original), original, images, source.preprocess)
    assert relative_error(run(model, images), expected) < 1e-5
    return original, model


@pytest.mark.parametrize(
    "exporter",
    [OLD_14, OLD_14_DYNAMIC, OLD_17_DYNAMIC, NEW_20_DYNAMIC, NEW_23_DYNAMIC],
    ids=str,
)
def test_our_own_model_comes_back_as_we_export_it(
    model: VisionTransformer, optimised: ir.Model, exporter: Exporter, tmp_path: Path
) -> None:
    _, rebuilt = _rebuilt(write(model, tmp_path / "model.onnx", exporter, (3, 32, 32)))
    assert count(rebuilt) == count(optimised)
    names = [[linear.name for linear in find_linears(m.graph)] for m in (rebuilt, optimised)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("timm", OLD_14),
        ("timm", OLD_17_DYNAMIC),
        ("timm", NEW_18),
        ("torchvision", OLD_14),
        ("torchvision", OLD_17_DYNAMIC),
        ("vit eager", OLD_11),
        ("vit eager", OLD_14_DYNAMIC),
        ("vit sdpa", OLD_14),
        ("vit sdpa", NEW_23_DYNAMIC),
        ("dinov2", OLD_14_DYNAMIC),
        ("dinov2", NEW_18),
        ("clip", OLD_11),
        ("clip", OLD_17_DYNAMIC),
    ],
    ids=str,
)
def test_other_models_are_fused(name: str, exporter: Exporter, tmp_path: Path) -> None:
    path = write(MODELS[name](), tmp_path / "model.onnx", exporter, (3, 32, 32))
    _, rebuilt = _rebuilt(path)
    found = count(rebuilt)
    assert found["LayerNormalization"] == (6 if name == "clip" else 5)
    assert found["Gelu"] == (0 if name == "clip" else 2)  # its QuickGELU stays
    assert found["Softmax"] == 2
    assert found["Shape"] == 1  # the batch of the class token
    pooled = {"ReduceMean"} if name == "dinov2" else set()
    assert not (DECOMPOSED - pooled) & found.keys()
    if name != "clip":  # its QuickGELU multiplies; attention and layer scale do not any more
        assert found["Mul"] == 0
    fused_qkv = name in ("timm", "torchvision")
    linears = quantisable(rebuilt.graph)
    assert len(linears) == 2 * (4 if fused_qkv else 6)
    assert all(linear.bias is not None for linear in linears)
    assert len({linear.name for linear in linears}) == len(linears)
    assert not any("onnx::" in str(v.name) for v in rebuilt.graph.initializers.values())
