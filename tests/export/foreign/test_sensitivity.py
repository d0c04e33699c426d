"""The effect of each layer in graphs that our own exporter does not write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from vit_edge.calibration.observers import DEFAULT_METHOD
from vit_edge.export.foreign.rebuild import rebuild, require_same
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.measure import predict
from vit_edge.export.passes import optimise
from vit_edge.export.quantise.layers import apply_fallback, find_layers
from vit_edge.export.sensitivity import (
    _measure_together,
    _require_apart,
    measure_sensitivity,
)
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.outputs import image_centred
from vit_edge.runtime.tools.images import ImageSet

from ...calibrate import calibrate
from ...vit.checkpoints.parity import shake
from ..graphs import quantise
from .files import FACTS, OLD_17_DYNAMIC, write

WIDTH, TOKENS = 32, 16


class _Attention(nn.Module):
    """Queries, keys and values are Linears of their own, which share their quantiser."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).reshape(-1, x.shape[1], 2, 16).transpose(1, 2) for f in self.parts())
        weights = (q @ k.transpose(2, 3) / 4).softmax(-1)
        context = (weights @ v).transpose(1, 2).reshape(-1, x.shape[1], WIDTH)
        return x + self.proj(context)  # type: ignore[no-any-return]

    def parts(self) -> tuple[nn.Linear, ...]:
        return self.q, self.k, self.v


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.first, self.second = _Attention(), _Attention()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))  # type: ignore[no-any-return]

    def blocks(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


class _Windows(_Model):
    """Four windows of each image are elements of the batch, in the first block."""

    def blocks(self, x: Tensor) -> Tensor:
        windows = self.first(x.reshape(-1, TOKENS // 4, WIDTH))
        return self.second(windows.reshape(-1, TOKENS, WIDTH))  # type: ignore[no-any-return]


class _TurnedWindows(_Windows):
    """The first windows of all images come first, then the second ones."""

    def blocks(self, x: Tensor) -> Tensor:
        shape = (-1, 4, TOKENS // 4, WIDTH)
        windows = x.reshape(shape).transpose(0, 1).reshape(-1, TOKENS // 4, WIDTH)
        mixed = self.first(windows).reshape(4, -1, TOKENS // 4, WIDTH).transpose(0, 1)
        return self.second(mixed.reshape(-1, TOKENS, WIDTH))  # type: ignore[no-any-return]


class _LateToken(_Model):
    """A class token is joined behind the first Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def blocks(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.token.expand(x.shape[0], -1, -1), self.first(x)), 1)
        return self.second(joined)  # type: ignore[no-any-return]


def _graph(model: nn.Module, path: Path) -> ir.Model:
    torch.manual_seed(0)
    write(shake(model), path, OLD_17_DYNAMIC, (3, 32, 32))
    graph, preprocess = prepare(path), find_foreign_source(path, FACTS).preprocess
    rebuild(graph, preprocess)
    optimise(graph)
    require_same(prepare(path), graph, preprocess)
    return graph


@pytest.mark.parametrize(
    ("model", "grows"),
    [(_Model, True), (_Windows, True), (_TurnedWindows, False), (_LateToken, True)],
    ids=["shared quantiser", "windows", "windows before images", "late class token"],
)
def test_each_effect_is_that_of_the_layer_alone(
    model: Callable[[], nn.Module], grows: bool, photographs: ImageSet, tmp_path: Path
) -> None:
    graph, few = _graph(model(), tmp_path / "model.onnx"), photographs.subset(range(6))
    quantised = quantise("int8", graph, calibrate(graph, few, DEFAULT_METHOD))
    exact, lowered = quantised.exact, quantised.lowered
    layers = find_layers(exact.graph, lowered.graph)
    together = _measure_together(exact, lowered, layers, few, lambda done, total: None)
    if grows:
        _require_apart(together, exact, lowered, layers, few)
    else:
        with pytest.raises(EngineError, match="mixed"):
            _require_apart(together, exact, lowered, layers, few)
    measured = measure_sensitivity(exact, lowered, layers, few, lambda done, total: None)
    few = few if grows else few.subset(range(3))
    right = predict(exact, few)
    assert len(measured) == len(layers) == 4
    assert {layer.cost for layer in layers[:2]} == {3 * TOKENS * WIDTH**2, TOKENS * WIDTH**2}
    for layer, effect in zip(layers, measured, strict=True):
        alone = lowered.clone()
        apply_fallback(exact, alone, layers, [o.name for o in layers if o is not layer])
        change, spread = predict(alone, few) - right, image_centred(right)
        expected = np.sqrt((change**2).mean() / (spread**2).mean())
        assert effect.error == pytest.approx(expected, rel=0.02)
