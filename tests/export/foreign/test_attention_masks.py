"""Attention as one operator, of opset 23 and later, with what is added to its scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vit_edge.export.foreign.rebuild import rebuild, require_same
from vit_edge.export.foreign.source import find_foreign_source, prepare

from ...vit.checkpoints.parity import shake
from ..graphs import count
from .files import FACTS, NEW_23_DYNAMIC, write

WIDTH, HEADS, TOKENS = 32, 4, 16


class _Masked(nn.Module):
    """Attention whose scores get relative positions, or leave tokens out."""

    def __init__(self, *, boolean: bool) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 10)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        positions = torch.randn(1, HEADS, TOKENS, TOKENS)
        self.register_buffer("mask", positions > -0.5 if boolean else positions)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        heads = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads, attn_mask=self.mask)
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("boolean", [True, False], ids=["left out", "positions"])
def test_a_mask_is_added_to_the_scores(boolean: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write(
        shake(_Masked(boolean=boolean)), tmp_path / "model.onnx", NEW_23_DYNAMIC, (3, 32, 32)
    )
    assert "Attention" in count(prepare(path))
    graph, preprocess = prepare(path), find_foreign_source(path, FACTS).preprocess
    rebuild(graph, preprocess)
    assert require_same(prepare(path), graph, preprocess) < 1e-5
    assert "Attention" not in count(graph)
