"""Faults that the checks find, and limits of how far a lowering may deviate from the fp32 graph.

Limits apply to the error of one segment of the graph, not to the accumulated error, so that they
depend on the number format and little on the model. The part that does depend on the model is
measured if a limit is missed, see `export.collapse.explained`. `docs/collapse.md` has what was
measured on both sides of each limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

EXPORT, STRUCTURE, FINITE, LOCAL, OUTPUTS = "export", "structure", "finite", "local", "outputs"
"""The checks: of the fp32 graph against PyTorch; of what the lowered graph is made of; for numbers
that are not finite; of each segment of the lowered graph; of its outputs against PyTorch's.
"""


@dataclass(frozen=True)
class Fault:
    """Wrong part of a lowered graph.

    Attributes:
        check: The check that found it.
        module: The module, such as `blocks.2.mlp`.
        tensor: The tensor where it shows.
        what: A sentence with the number, the limit and, where it can be told, the likely cause.
    """

    check: str
    module: str
    tensor: str
    what: str

    def __str__(self) -> str:
        return f"{self.module} ({self.tensor}): {self.what}"


FP16_STEP, BF16_STEP = 2.0**-11, 2.0**-8
"""Largest relative rounding error of a 16-bit number."""


@dataclass(frozen=True)
class SegmentLimits:
    """Limits of a segment of the graph, from one probe to the next.

    Errors are RMS, relative to the RMS of what is right.

    Attributes:
        error: Of the whole segment.
        channel: Of its worst channel.
        gain: Distance of its gain from 1.
        channel_gain: The same for each channel.
        shift: The error that is the same for all images and tokens.
    """

    error: float
    channel: float
    gain: float
    channel_gain: float
    shift: float

    def times(self, factor: float) -> SegmentLimits:
        return SegmentLimits(*(factor * getattr(self, field.name) for field in fields(self)))

    def widened(self, explained: SegmentLimits) -> SegmentLimits:
        """Widens each limit by what the format explains in a model, see `widen_limits`."""
        names = [field.name for field in fields(self)]
        return SegmentLimits(
            *(widen_limits(getattr(self, n), getattr(explained, n)) for n in names)
        )


@dataclass(frozen=True)
class Limits:
    """Limits of a precision.

    Attributes:
        exact: Error of what is not quantised: the embedding, and from the last block to the output.
        linear: Of a Linear inside a branch.
        branch: Of a branch, without the stream that it is added to.
        one_token: Factor on the limits where only the class token is left: calibration too has one
            row for each image there, and its ranges fit other images worse.
        outputs: Error of the outputs, relative to how much they differ between images.
        stream: Relative rounding error of the residual stream's type.
    """

    exact: float
    linear: SegmentLimits
    branch: SegmentLimits
    one_token: float
    outputs: float
    stream: float

    @property
    def rounding(self) -> float:
        """The part of the stream that counts as signal, so that its rounding breaks no limit."""
        return self.stream / self.branch.error


ROOM, MOST = 1.5, 4.0
"""A lowering may have `ROOM` times the error of its model's plain lowering, but at most `MOST`
times the limit, which is what models of other architectures need.
"""


def widen_limits(limit: float, explained: float) -> float:
    """The limit for a model in which the plain lowering to the same types errs by `explained`."""
    return min(max(limit, ROOM * explained), MOST * limit)


EXPORT_ERROR = 1e-3
"""Limit of the fp32 graph's outputs against PyTorch's, measured as `Limits.outputs`."""
FAR_BEYOND, CLIPPING = 1.5, 2.0
"""A calibrated range may clip rare peaks, which reduces gain and mean. Where a quantiser's largest
input is over `FAR_BEYOND` times the end of its grid, the limits are `CLIPPING` times larger.
"""
MANY_CLIPPED, LITTLE_USED = 0.05, 0.125
"""Signs that the range of a quantiser is to blame: more than this share of its input is clipped, or
this part of the grid is all that is used.
"""
