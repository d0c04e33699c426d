"""Token merging in models that are written in other ways than the libraries' ViTs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_edge.export.foreign.rebuild import rebuild
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.merging.blocks import CannotMergeError, find_structure
from vit_edge.export.merging.rewrite import merge_tokens
from vit_edge.export.passes import optimise

from ..foreign.files import FACTS, OLD_17_DYNAMIC, write
from ..graphs import relative_error, run

WIDTH = 32


class Block(nn.Module):
    """Attention is no module of its own: its operators are named after the block."""

    def __init__(self, position: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Linear(WIDTH, WIDTH)
        self.position = nn.Parameter(torch.randn(1, 16, WIDTH)) if position else None

    def forward(self, x: Tensor) -> Tensor:
        if self.position is not None:
            x = x + self.position
        batch, tokens, _ = x.shape
        parts = self.qkv(self.first(x)).reshape(batch, tokens, 3, 2, WIDTH // 2)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.25).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + F.gelu(self.mlp(self.second(x)))


class Unusual(nn.Module):
    """A ViT of 16 patches; `ways` says what is unusual."""

    def __init__(self, *ways: str) -> None:
        super().__init__()
        self.ways = ways
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.before, self.score = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        number = 1 if "shared" in ways else 3
        self.blocks = nn.ModuleList(Block("position" in ways) for _ in range(number))
        self.head = nn.Linear(2 * WIDTH if "pooling" in ways else WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if "token" in self.ways or "hidden" in self.ways:
            axis = -2 if "token" in self.ways else 1
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=axis)
            x = F.gelu(self.before(x))
        if "hidden" in self.ways:  # mixes tokens: nothing tells which is which
            x = x.transpose(1, 2).cumsum(dim=-1).transpose(1, 2)
        for index in range(3):
            x = self.blocks[index % len(self.blocks)](x)
        if "pooling" in self.ways:
            return self.head((self.score(x).transpose(1, 2).softmax(-1) @ x).flatten(1))
        return self.head(x.mean(1))


def build(tmp_path: Path, *ways: str) -> ir.Model:
    torch.manual_seed(0)
    model = Unusual(*ways).eval()
    path = write(model, tmp_path / "model.onnx", OLD_17_DYNAMIC, (3, 32, 32))
    source, graph = find_foreign_source(path, FACTS), prepare(path)
    rebuild(graph, source.preprocess)
    optimise(graph)
    return graph


@pytest.mark.parametrize("ways", [(), ("shared",)], ids=["in the block", "shared weights"])
def test_blocks_without_names_of_their_own_are_merged(
    ways: tuple[str, ...], tmp_path: Path, frames: np.ndarray
) -> None:
    graph = build(tmp_path, *ways)
    merged = merge_tokens(graph, (3, 2))
    names = [value.name for node in merged.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    assert 1e-5 < relative_error(run(merged, frames), run(graph, frames)) < 0.5


def test_pooling_by_attention_counts_a_token_as_often_as_it_stands_for(
    tmp_path: Path, frames: np.ndarray
) -> None:
    """Of an image with one colour all patches are alike: merging them changes nothing."""
    graph = build(tmp_path, "pooling")
    plain = np.full_like(frames, 90)
    merged = merge_tokens(graph, (5, 3, 2))
    assert relative_error(run(merged, plain), run(graph, plain)) < 1e-5
    assert 1e-5 < relative_error(run(merged, frames), run(graph, frames)) < 0.5


def test_a_block_that_needs_every_token_again_is_named(tmp_path: Path, frames: np.ndarray) -> None:
    graph = build(tmp_path, "position")
    assert np.isfinite(run(merge_tokens(graph, (3,)), frames)).all()
    with pytest.raises(CannotMergeError, match="with all 16 tokens again"):
        merge_tokens(graph, (3, 2))


def test_a_class_token_is_found_behind_a_linear_and_whatever_its_axis_is_called(
    tmp_path: Path,
) -> None:
    structure = find_structure(build(tmp_path, "token").graph)
    assert (structure.special, structure.tokens) == (1, 17)


def test_tokens_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotMergeError, match="which tokens are class or register tokens"):
        find_structure(build(tmp_path, "hidden").graph)


def test_a_graph_that_would_not_be_valid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a kind of model that nobody has seen."""
    graph = build(tmp_path)
    module = "vit_edge.export.merging.rewrite"

    def forget(*_: Any) -> None: ...

    with monkeypatch.context() as patches:
        patches.setattr(f"{module}._Rewriter._resize", forget)
        with pytest.raises(CannotMergeError, match="would not be valid"):
            merge_tokens(graph, (3, 2))
