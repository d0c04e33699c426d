"""Time that an export may take to find better engines. What is proven is the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """A value of `--effort`.

    Attributes:
        tries_forms: True if several equivalent forms of a graph are tried for each target, and
            latencies estimated from plans of single batch sizes.
        gain_of_division: Factor by which the squared error of the model's outputs must fall before
            a quantised layer divides its input, at the price of a multiplication in the engine;
            None where that is not asked.
    """

    tries_forms: bool
    gain_of_division: float | None


FAST, DEFAULT_EFFORT, THOROUGH = "fast", "default", "thorough"
EFFORTS = {
    FAST: Effort(tries_forms=False, gain_of_division=None),
    DEFAULT_EFFORT: Effort(tries_forms=True, gain_of_division=3.0),
    THOROUGH: Effort(tries_forms=True, gain_of_division=1.5),
}
