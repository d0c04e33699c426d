"""Merged graphs compute what the paper's token merging computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from tests import oracles
from tests.calibrate import calibrate
from vit_edge.export.foreign.rebuild import rebuild
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.measure import simulate
from vit_edge.export.merging.blocks import CannotMergeError, find_structure
from vit_edge.export.merging.rewrite import merge_tokens
from vit_edge.export.merging.schedule import work_model
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.precision.fp16 import FP16
from vit_edge.export.quantise.layers import count_work
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.config import EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.datasets import samples
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.variants import Variant
from vit_edge.vit.vision_transformer import VisionTransformer

from ...vit.checkpoints.parity import shake
from ..foreign.files import FACTS, NEW_18, OLD_14, OLD_17_DYNAMIC, Exporter, Output, write
from ..graphs import relative_error, run
from .tome import forward

CONFIG = ViTConfig(
    img_size=32, patch_size=8, num_classes=10, embed_dim=64, depth=4, n_heads=2, mlp_ratio=2
)
MODELS = {
    "class token": CONFIG,
    "mean": dataclasses.replace(
        CONFIG, embedding=EmbeddingOptions(class_token=False), readout=ReadoutOptions(pool="mean")
    ),
    "mean with a class token": dataclasses.replace(CONFIG, readout=ReadoutOptions(pool="mean")),
    "distilled": dataclasses.replace(
        CONFIG,
        embedding=EmbeddingOptions(distillation_token=True),
        readout=ReadoutOptions(pool="class_and_distillation"),
    ),
    "registers": dataclasses.replace(CONFIG, embedding=EmbeddingOptions(registers=4)),
}
SCHEDULE = (3, 0, 4, 0)


def build(config: ViTConfig, variant: Variant) -> tuple[VisionTransformer, ir.Model]:
    torch.manual_seed(0)
    model = VisionTransformer.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    graph = export_onnx(model, variant.preprocess, "logits")
    optimise(graph)
    return model, graph


@pytest.mark.parametrize("name", MODELS)
def test_a_merged_graph_computes_token_merging(
    name: str, variant: Variant, frames: np.ndarray
) -> None:
    model, graph = build(MODELS[name], variant)
    with torch.inference_mode():
        expected = forward(model, normalise(frames, variant.preprocess), SCHEDULE).numpy()
    merged = run(merge_tokens(graph, SCHEDULE), frames)
    assert relative_error(merged, expected) < 1e-5
    assert relative_error(run(graph, frames), expected) > 1e-3  # merging changes something
    structure = find_structure(graph.graph)
    assert structure.special == MODELS[name].embedding.prefix_tokens
    saved = work_model(graph.graph, structure).saved(SCHEDULE)
    counts = [
        sum(p.total for p in count_work(m.graph).parts)
        for m in (graph, merge_tokens(graph, SCHEDULE))
    ]
    assert saved == pytest.approx(1 - counts[1] / counts[0], abs=0.03)


def test_nothing_to_merge_leaves_the_graph_itself(optimised: ir.Model) -> None:
    assert merge_tokens(optimised, (0, 0)) is optimised


@pytest.mark.parametrize("schedule", [(8,), (0, 1), (1, 0, 1)], ids=str)
def test_more_than_a_block_can_merge_is_refused(
    schedule: tuple[int, ...], optimised: ir.Model
) -> None:
    """17 tokens: 8 at side A, of which one is left; the last block computes the class token."""
    with pytest.raises(CannotMergeError, match=r"can merge|tokens are given for"):
        merge_tokens(optimised, schedule)


@pytest.mark.parametrize("name", ["mean", "class token"])
def test_tokens_as_output_come_back_each_as_what_it_became(
    name: str, variant: Variant, frames: np.ndarray
) -> None:
    """With a dense output beside the logits every token of the image is there again."""
    _, graph = build(MODELS[name], variant)
    stream = find_structure(graph.graph).blocks[2].stream
    graph.graph.outputs.append(stream)
    merged = merge_tokens(graph, (3, 2, 4))
    assert merged.graph.outputs[1].name == stream.name
    assert list(merged.graph.outputs[1].shape) == list(stream.shape)
    tokens, expected = (run_all(m, frames)[1] for m in (merged, graph))
    special = MODELS[name].embedding.prefix_tokens
    distinct = [len(np.unique(image, axis=0)) for image in tokens]
    assert distinct == [tokens.shape[1] - 5] * len(tokens)  # the last step is behind the output
    error = np.abs(tokens - expected).mean() / expected.std()
    assert 1e-4 < error < 0.5
    assert special == 0 or np.abs(tokens[:, 0] - expected[:, 0]).max() < np.ptp(expected)


def run_all(model: ir.Model, frames: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[np.ndarray] = session.run(None, {"images": frames})
    return outputs


def test_large_activations_do_not_overflow_in_16_bits(variant: Variant, frames: np.ndarray) -> None:
    """Sums of tokens would: averages of what 16 bits hold are held by them."""
    _, graph = build(MODELS["class token"], variant)
    bias = graph.graph.initializers["patch_embed.proj.bias"]
    assert bias.const_value is not None
    large = bias.const_value.numpy().copy()
    large[3] = 40_000  # of 65,504
    bias.const_value = ir.tensor(large, name=bias.name)
    lowered = FP16(headroom=1.0).lower(graph, calibrate(graph, _few(variant), "minmax", ("fp16",)))
    merged = merge_tokens(lowered["gpu"], (7, 3, 2))
    stream = [n for n in merged.graph if n.op_type == "MatMul" and ".merge/" in str(n.name)]
    assert ir.DataType.FLOAT16 in {node.outputs[0].dtype for node in stream}
    outputs = run(simulate(merged), frames)
    exact = run(merge_tokens(graph, (7, 3, 2)), frames)
    assert np.isfinite(outputs).all()
    assert relative_error(outputs, exact) < 0.2


def _few(variant: Variant) -> ImageSet:
    return samples("calibration", variant.preprocess).subset(range(8))


def _timm(registers: int) -> nn.Module:
    layout = oracles.timm().models.vision_transformer.VisionTransformer
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4}
    options = {"num_classes": 10, "mlp_ratio": 2, "reg_tokens": registers}
    return shake(layout(**sizes, **options))


def _torchvision() -> nn.Module:
    layout = oracles.torchvision().models.vision_transformer.VisionTransformer
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4}
    return shake(layout(hidden_dim=64, mlp_dim=128, num_classes=10, **sizes))


def _dinov2() -> nn.Module:
    library = oracles.transformers()
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = library.Dinov2WithRegistersConfig(
        **sizes, image_size=32, patch_size=8, mlp_ratio=2, num_labels=10, num_register_tokens=4
    )
    return shake(Output(library.Dinov2WithRegistersForImageClassification(config), "logits"))


@pytest.mark.parametrize(
    ("module", "exporter", "special"),
    [
        (lambda: _timm(4), OLD_17_DYNAMIC, 5),
        (lambda: _timm(0), NEW_18, 1),
        (_torchvision, OLD_14, 1),
        (_dinov2, NEW_18, 5),
    ],
    ids=["timm with registers", "timm", "torchvision", "dinov2 with registers"],
)
def test_other_libraries_models_are_merged(
    module: Callable[[], nn.Module],
    exporter: Exporter,
    special: int,
    tmp_path: Path,
    frames: np.ndarray,
) -> None:
    path = write(module(), tmp_path / "model.onnx", exporter, (3, 32, 32))
    source, graph = find_foreign_source(path, FACTS), prepare(path)
    rebuild(graph, source.preprocess)
    optimise(graph)
    structure = find_structure(graph.graph)
    assert (structure.special, structure.tokens) == (special, special + 16)
    assert len(structure.blocks) == 3
    merged = merge_tokens(graph, (3, 2))
    assert sum(p.total for p in count_work(merged.graph).parts) < 0.95 * sum(
        p.total for p in count_work(graph.graph).parts
    )
    error = relative_error(run(merged, frames), run(graph, frames))
    assert 1e-4 < error < 0.5


def test_windows_are_refused_in_one_line(tmp_path: Path) -> None:
    swin = oracles.timm().models.swin_transformer.SwinTransformer
    model = swin(
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=10,
    )
    path = write(shake(model), tmp_path / "swin.onnx", OLD_17_DYNAMIC, (3, 32, 32))
    source, graph = find_foreign_source(path, FACTS), prepare(path)
    rebuild(graph, source.preprocess)
    optimise(graph)
    with pytest.raises(CannotMergeError) as refused:
        find_structure(graph.graph)
    assert "\n" not in str(refused.value)
    assert "attention" in str(refused.value)
