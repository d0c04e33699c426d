"""Einsum, assignments to slices and Col2Im, written as operators that every builder takes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from vit_edge.export.foreign.rebuild import rebuild, require_same
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.passes.linears import find_linears

from ...vit.checkpoints.parity import shake
from ..graphs import count
from .files import FACTS, NEW_20_DYNAMIC, OLD_17_DYNAMIC, Exporter, write

WIDTH, HEADS, TOKENS = 32, 4, 16


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 10)
        self.weight = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS, WIDTH) / 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(tokens).mean(1))  # type: ignore[no-any-return]

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Einsum(_Model):
    """Attention of MaxViT, and a projection that sums over two axes."""

    def mix(self, x: Tensor) -> Tensor:
        heads = x.unflatten(2, (HEADS, -1))
        scores = torch.einsum("bnhd,bmhd->bhnm", heads, heads).softmax(-1)
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores, heads)
        return torch.einsum("bnhd,hdk->bnk", mixed, self.weight)


class _Assignment(_Model):
    """Something is added to all tokens but the first, in place, as MViT adds its positions."""

    def mix(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2)
        scores[:, 1:, 2:] = scores[:, 1:, 2:] + x[:, 1:, 2:TOKENS]
        return scores.softmax(-1) @ x


class _Fold(_Model):
    """Overlapping blocks are summed up, as VOLO's outlook attention does; a row is left over."""

    def mix(self, x: Tensor) -> Tensor:
        columns = x[:, :, :18].flatten(1).unflatten(1, (8 * 3 * 3, 2 * 2))
        image = nn.functional.fold(columns, (4, 3), 3, padding=1, stride=2)
        return x + image.flatten(1)[:, :TOKENS, None]


CASES = [(m, e) for m in (_Einsum, _Assignment) for e in (NEW_20_DYNAMIC, OLD_17_DYNAMIC)]
CASES += [(_Fold, NEW_20_DYNAMIC)]  # Col2Im is of opset 18


@pytest.mark.parametrize(("model", "exporter"), CASES, ids=[f"{m.__name__}-{e}" for m, e in CASES])
def test_rewritten_for_any_batch(model: type[_Model], exporter: Exporter, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write(shake(model()), tmp_path / "model.onnx", exporter, (3, 32, 32))
    graph, preprocess = prepare(path), find_foreign_source(path, FACTS).preprocess
    rebuild(graph, preprocess)
    assert require_same(prepare(path), graph, preprocess) < 1e-5
    assert not {"Einsum", "ScatterND", "ScatterElements", "Col2Im"} & count(graph).keys()
    if model is _Einsum:
        assert len(find_linears(graph.graph)) == 1, "the constant operand makes it a Linear"


def test_einsum_of_another_kind_stays(tmp_path: Path) -> None:
    class _Diagonal(_Model):
        def mix(self, x: Tensor) -> Tensor:
            return torch.einsum("bnk,bnk->bn", x, x)[..., None].expand(-1, -1, WIDTH)

    path = write(shake(_Diagonal()), tmp_path / "model.onnx", OLD_17_DYNAMIC, (3, 32, 32))
    graph, preprocess = prepare(path), find_foreign_source(path, FACTS).preprocess
    rebuild(graph, preprocess)
    assert isinstance(graph, ir.Model)
    assert require_same(prepare(path), graph, preprocess) < 1e-5
