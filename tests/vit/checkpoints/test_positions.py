from __future__ import annotations

import torch

from vit_edge.vit.checkpoints.model import resample


def test_positions_of_another_size_keep_their_places() -> None:
    rows = torch.arange(4.0).repeat_interleave(4).reshape(1, 16, 1)
    grid = resample(rows, (4, 4), (8, 8), antialias=True).reshape(8, 8)
    assert (grid.diff(dim=0) > -0.1).all()
    torch.testing.assert_close(grid[:, 0], grid[:, 7])
    torch.testing.assert_close(grid.mean(), torch.tensor(1.5))


def test_positions_of_the_same_size_are_left_alone() -> None:
    positions = torch.randn(1, 12, 5)
    assert resample(positions, (3, 4), (3, 4), antialias=True) is positions
