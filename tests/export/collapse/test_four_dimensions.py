"""A first block on `[B, H, W, C]`, as Swin's: no false alarm, and its faults are found."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vit_edge.export.collapse import find_faults
from vit_edge.export.foreign.rebuild import rebuild
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.measure import predict
from vit_edge.export.passes import optimise
from vit_edge.export.passes.linears import find_linears
from vit_edge.export.precision import PRECISIONS
from vit_edge.runtime.outputs import spread
from vit_edge.runtime.tools.images import ImageSet

from ...calibrate import calibrate
from ...vit.checkpoints.parity import shake
from ..foreign.files import FACTS, OLD_17_DYNAMIC, write
from .quantiser_faults import weight_scale
from .workshop import limits_of

WIDTH = 32


class _Mlp(nn.Sequential):
    def __init__(self) -> None:
        hidden = 2 * WIDTH
        super().__init__(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, hidden), nn.GELU(), nn.Linear(hidden, WIDTH)
        )


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, 10)
        self.first, self.second = _Mlp(), _Mlp()

    def forward(self, x: Tensor) -> Tensor:
        grid = self.patches(x).permute(0, 2, 3, 1)
        tokens = (grid + self.first(grid)).flatten(1, 2)
        return self.head((tokens + self.second(tokens)).mean(1))  # type: ignore[no-any-return]


def test_a_first_block_of_four_dimensions(photographs: ImageSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write(shake(_Model()), tmp_path / "model.onnx", OLD_17_DYNAMIC, (3, 32, 32))
    fp32, images, limits = prepare(path), photographs.subset(range(8)), limits_of("int8")
    rebuild(fp32, find_foreign_source(path, FACTS).preprocess)
    optimise(fp32)
    reference = predict(fp32, images)
    lowered = PRECISIONS["int8"].lower(fp32, calibrate(fp32, images, "search"))["cpu"]
    assert find_faults(lowered, fp32, images, reference, spread(reference), limits) == ()
    for linear in find_linears(fp32.graph):
        broken = lowered.clone()
        weight_scale(broken, linear.name, lambda scales: 1.2 * scales)
        assert find_faults(broken, fp32, images, reference, spread(reference), limits), linear.name
