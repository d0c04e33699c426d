"""How far each precision may be from what it stands for.

Limits are on the error of one stretch of the graph, not on what has accumulated, so that they
depend on the number format and little on the model. `docs/collapse.md` has what was measured on
both sides of each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

FP16_STEP, BF16_STEP = 2.0**-11, 2.0**-8
"""Relative rounding error of a 16-bit number at most."""


@dataclass(frozen=True)
class Stretch:
    """Limits of a stretch of the graph. Errors are RMS, relative to the RMS of what is right.

    Attributes:
        error: Of all of it.
        channel: Of its worst channel.
        gain: It comes out too large or small by this part at most,
        channel_gain: and each of its channels by this.
        shift: The error that is the same for all images and tokens.
    """

    error: float
    channel: float
    gain: float
    channel_gain: float
    shift: float

    def times(self, factor: float) -> Stretch:
        return Stretch(*(factor * getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Limits:
    """Limits of a precision.

    Attributes:
        exact: Error of what is not quantised: the embedding, and from the last block to the output.
        linear: Of a Linear inside a branch.
        branch: Of a branch, without the stream that it is added to.
        one_token: How many times larger the limits are where only the class token is left: one row
            an image, for the calibration too, and its ranges fit other images worse.
        answers: Error of the answers, relative to how far they are apart from image to image.
        stream: Relative rounding error of the residual stream's type.
    """

    exact: float
    linear: Stretch
    branch: Stretch
    one_token: float
    answers: float
    stream: float

    @property
    def rounding(self) -> float:
        """The part of the stream that counts as signal: its rounding alone breaks no limit."""
        return self.stream / self.branch.error


LIMITS: dict[str, Limits] = {
    "fp32": Limits(
        exact=1e-4,
        linear=Stretch(1e-4, 1e-3, 1e-4, 1e-3, 1e-4),
        branch=Stretch(1e-4, 1e-3, 1e-4, 1e-3, 1e-4),
        one_token=1.0,
        answers=1e-3,
        stream=0.0,
    ),
    "fp16": Limits(
        exact=2e-3,
        linear=Stretch(2e-3, 8e-3, 2e-4, 4e-3, 8e-4),
        branch=Stretch(5e-3, 2e-2, 1e-3, 6e-3, 2e-3),
        one_token=1.0,
        answers=2e-2,
        stream=FP16_STEP,
    ),
    "bf16": Limits(
        exact=1e-2,
        linear=Stretch(1e-2, 6e-2, 2e-3, 3e-2, 6e-3),
        branch=Stretch(3e-2, 1.5e-1, 6e-3, 4e-2, 1.2e-2),
        one_token=1.0,
        answers=8e-2,
        stream=BF16_STEP,
    ),
    "int8": Limits(
        exact=2e-3,
        linear=Stretch(6e-2, 2.5e-1, 1e-2, 1.2e-1, 2e-2),
        branch=Stretch(1.5e-1, 5e-1, 6e-2, 3.5e-1, 6e-2),
        one_token=2.5,
        answers=2.5e-1,
        stream=FP16_STEP,
    ),
    "fp8": Limits(
        exact=2e-3,
        linear=Stretch(1.2e-1, 4e-1, 2e-2, 2.5e-1, 4e-2),
        branch=Stretch(1.6e-1, 6.5e-1, 6e-2, 3.5e-1, 9e-2),
        one_token=2.0,
        answers=6e-1,
        stream=FP16_STEP,
    ),
    "int4": Limits(
        exact=2e-3,
        linear=Stretch(2.5e-1, 1.2, 4e-2, 7e-1, 1.5e-1),
        branch=Stretch(4e-1, 2.0, 1.2e-1, 9e-1, 2.5e-1),
        one_token=2.0,
        answers=8e-1,
        stream=FP16_STEP,
    ),
}
EXPORT_ERROR = 1e-3
"""Of the fp32 graph's answers against PyTorch's, as `Limits.answers`."""
FAR_BEYOND, CLIPPING = 1.5, 2.0
"""A calibrated range may clip rare peaks, which takes from gain and mean. Where a quantiser's input
goes so many times beyond its grid, the limits are so many times larger.
"""
MANY_CLIPPED, LITTLE_USED = 0.05, 0.125
"""What a quantiser's input looks like when its range is to blame: more than this share is clipped,
or this part of the grid is all that is used.
"""
