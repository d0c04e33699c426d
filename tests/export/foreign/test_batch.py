"""The batch becomes dynamic again where constants grow with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vit_edge.export.foreign.rebuild import rebuild, require_same
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.runtime.errors import InputError

from ...vit.checkpoints.parity import shake
from .files import FACTS, NEW_20_DYNAMIC, OLD_17_DYNAMIC, Exporter, write

WIDTH, HEADS, WINDOWS, TOKENS = 32, 4, 4, 16


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]

    def pool(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Query(_Tokens):
    """One learned query, repeated for every image, attends to the tokens: SigLIP's pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def pool(self, x: Tensor) -> Tensor:
        query = self.query.repeat(x.shape[0], 1, 1)
        pooled: Tensor = self.attention(query, x, x)[0]
        return pooled[:, 0]


class _Mask(_Tokens):
    """A constant mask for the windows of every image: Swin's shifted windows."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(WINDOWS, TOKENS // WINDOWS, 1))

    def pool(self, x: Tensor) -> Tensor:
        mask = self.mask[None].expand(x.shape[0], -1, -1, -1)
        windows = x.reshape(-1, TOKENS // WINDOWS, WIDTH)
        masked = windows * mask.reshape(-1, TOKENS // WINDOWS, 1)
        return masked.reshape(-1, TOKENS, WIDTH).max(1).values


class _Norm(_Tokens):
    """Windows divided by their lengths, expanded to a shape that is computed: Swin V2's cosine."""

    def pool(self, x: Tensor) -> Tensor:
        windows = x.reshape(-1, TOKENS // WINDOWS, WIDTH)
        unit = nn.functional.normalize(windows, dim=-1)
        return unit.reshape(-1, TOKENS, WIDTH).amax(1)


class _First(_Tokens):
    """Each image's answer depends on the first one of its batch."""

    def pool(self, x: Tensor) -> Tensor:
        return (x + 0.1 * x[:1]).amax(1)


def _rebuild(path: Path) -> float:
    """The error of the rebuilt file at batches of 1 and 3."""
    graph, preprocess = prepare(path), find_foreign_source(path, FACTS).preprocess
    rebuild(graph, preprocess)
    return require_same(prepare(path), graph, preprocess)


@pytest.mark.parametrize("model", [_Query, _Mask, _Norm])
@pytest.mark.parametrize("exporter", [NEW_20_DYNAMIC, OLD_17_DYNAMIC], ids=str)
def test_constants_that_grow_with_the_batch(
    model: type[_Tokens], exporter: Exporter, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = write(shake(model()), tmp_path / "model.onnx", exporter, (3, 32, 32))
    assert _rebuild(path) < 1e-5


def test_images_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    path = write(shake(_First()), tmp_path / "model.onnx", NEW_20_DYNAMIC, (3, 32, 32))
    with pytest.raises(InputError):
        _rebuild(path)
