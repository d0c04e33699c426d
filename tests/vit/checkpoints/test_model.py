"""Checkpoints that do not fit their model: the message names the tensors and a remedy."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vit_edge.runtime.errors import InputError
from vit_edge.vit.checkpoints import (
    build_model,
    encode_checkpoint,
    find_architecture,
    read_checkpoint,
)
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer


def refusal(model: VisionTransformer, tensors: dict[str, torch.Tensor]) -> str:
    with pytest.raises(InputError) as caught:
        build_model(model.config, tensors, "file")
    return str(caught.value)


def test_missing_unexpected_and_misshapen_tensors_are_named(model: VisionTransformer) -> None:
    tensors = dict(model.state_dict())
    del tensors["norm.bias"]
    tensors["head.weight"] = torch.zeros(3, 3)
    tensors["extra"] = torch.zeros(1)
    message = refusal(model, tensors)
    for words in (
        "1 missing (norm.bias)",
        "1 unexpected (extra)",
        "1 of another shape (head.weight is [3, 3], not [10, 64])",
    ):
        assert words in message


def test_ten_are_named_and_the_rest_counted(model: VisionTransformer) -> None:
    tensors = {n: t for n, t in model.state_dict().items() if not n.startswith("blocks.1")}
    message = refusal(model, tensors)
    assert "12 missing (blocks.1.norm1.weight, " in message
    assert "and 2 more" in message
    assert "incomplete: download or save it again" in message


def test_layers_that_no_vit_here_has_lead_to_the_onnx_road(model: VisionTransformer) -> None:
    tensors = {**model.state_dict(), "attn_pool.q.weight": torch.zeros(1)}
    message = refusal(model, tensors)
    assert "1 unexpected (attn_pool.q.weight)" in message
    assert "no plain ViT: give the model that it is of: timm:NAME" in message


def test_half_precision_weights_become_fp32(model: VisionTransformer) -> None:
    halves = {name: value.half() for name, value in model.state_dict().items()}
    built = build_model(model.config, halves, "file")
    assert {value.dtype for value in built.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(built.norm.weight, halves["norm.weight"].float())


def test_without_classes_the_head_is_left_out(model: VisionTransformer) -> None:
    config = replace(model.config, num_classes=0)
    features = build_model(config, model.state_dict(), "file")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(features(images), model.features(images))


class TestArchitecture:
    def find(self, state: dict[str, torch.Tensor], tmp_path: Path, **hints: object):  # type: ignore[no-untyped-def]
        path = tmp_path / "timm.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        return find_architecture(read_checkpoint(path), ModelHints(**hints))  # type: ignore[arg-type]

    def test_shapes_tell_and_the_rest_is_assumed(
        self, model: VisionTransformer, tmp_path: Path
    ) -> None:
        architecture = self.find(dict(model.state_dict()), tmp_path)
        assert architecture.config == model.config
        assert "width 64, depth 2, patches of 8" in architecture.inferred
        assert "n_heads 2 (as vit_test_patch8_32)" in architecture.assumed
        assert "norm_eps 1e-06 (usual for timm)" in architecture.assumed

    def test_what_is_given_is_not_assumed(self, model: VisionTransformer, tmp_path: Path) -> None:
        architecture = self.find(dict(model.state_dict()), tmp_path, n_heads=4, norm_eps=1e-5)
        assert (architecture.config.n_heads, architecture.config.block.norm_eps) == (4, 1e-5)
        assert not any("n_heads" in line or "norm_eps" in line for line in architecture.assumed)

    def test_unknown_heads_are_asked_for(self, model: VisionTransformer, tmp_path: Path) -> None:
        state = {n: t for n, t in model.state_dict().items() if not n.startswith("blocks.1")}
        with pytest.raises(InputError, match=r"width 64 and depth 1: give --heads"):
            self.find(state, tmp_path)

    def test_missing_parts_are_named(self, model: VisionTransformer, tmp_path: Path) -> None:
        state = dict(model.state_dict())
        del state["pos_embed"], state["blocks.0.mlp.fc1.weight"]
        with pytest.raises(InputError, match=r"it has no pos_embed, blocks\.0\.mlp\.fc1\.weight"):
            self.find(state, tmp_path)

    def test_positions_that_are_no_square_ask_for_the_size(
        self, model: VisionTransformer, tmp_path: Path
    ) -> None:
        state = dict(model.state_dict())
        state["pos_embed"] = state["pos_embed"][:, :13]
        with pytest.raises(InputError, match="13 positions are no square grid: give the"):
            self.find(state, tmp_path)
        assert self.find(state, tmp_path, img_size=(24, 32)).config.image_size == (24, 32)


_LOAD = """
import resource, sys
from pathlib import Path
from vit_edge.vit.checkpoints import build_model, find_architecture, read_checkpoint
from vit_edge.vit.hints import ModelHints

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
checkpoint = read_checkpoint(Path(sys.argv[1]))
architecture = find_architecture(checkpoint, ModelHints())
build_model(architecture.config, checkpoint.tensors, "file", architecture.native)
print(before, peak())
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_loading_needs_little_more_than_the_model(suffix: str, tmp_path: Path) -> None:
    """Peak memory beyond the interpreter's: the model, and its file at most 1.3 times."""
    with torch.device("cpu"):
        model = VisionTransformer(embed_dim=768, depth=12)
    path = tmp_path / f"large{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        path.write_bytes(encode_checkpoint(model))
    size = sum(p.numel() * 4 for p in model.parameters())
    del model
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)], check=True, capture_output=True, text=True
    )
    before, after = (int(word) * 1024 for word in done.stdout.split())
    assert after - before < 2.3 * size
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
