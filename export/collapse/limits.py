"""How far each precision may be from what it stands for.

Limits are on the error of one stretch of the graph, not on what has accumulated, so that they
depend on the number format and little on the model. `docs/collapse.md` has what was measured on
both sides of each.
"""

from __future__ import annotations

from dataclasses import dataclass

FP16_STEP, BF16_STEP = 2.0**-11, 2.0**-8
"""Relative rounding error of a 16-bit number at most."""


@dataclass(frozen=True)
class Limits:
    """Errors are RMS, relative to the RMS of what is right.

    Attributes:
        exact: Of what is not quantised: the embedding, and from the last block to the output.
        linear: Of a Linear inside a branch.
        branch: Of a branch, without the stream that it is added to.
        channel: Of the worst channel of either.
        gain: A branch or Linear comes out too large or small by this part at most,
        channel_gain: and each of its channels by this.
        shift: The error that is the same for all images and tokens.
        answers: Of the logits, relative to how far they are apart from image to image.
        stream: Relative rounding error of the residual stream's type.
    """

    exact: float
    linear: float
    branch: float
    channel: float
    gain: float
    channel_gain: float
    shift: float
    answers: float
    stream: float


LIMITS: dict[str, Limits] = {
    "fp32": Limits(1e-4, 1e-4, 1e-4, 1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 0.0),
    "fp16": Limits(2e-3, 2e-3, 5e-3, 2e-2, 1e-3, 6e-3, 2e-3, 2e-2, FP16_STEP),
    "bf16": Limits(1e-2, 1e-2, 3e-2, 1.5e-1, 6e-3, 4e-2, 1.2e-2, 8e-2, BF16_STEP),
    "int8": Limits(2e-3, 8e-2, 1.2e-1, 5e-1, 4e-2, 3e-1, 7e-2, 2.5e-1, FP16_STEP),
}
EXPORT_ERROR = 1e-3
"""Of the fp32 graph's answers against PyTorch's, as `Limits.answers`."""
MANY_CLIPPED, FEW_STEPS = 0.05, 16.0
"""What a quantiser's input looks like when its scale is to blame: more than this share clipped, or
never more steps than this from zero.
"""
