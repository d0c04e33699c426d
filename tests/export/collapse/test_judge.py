"""Each measure alone finds what is its own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from vit_edge.export.collapse.judge import Moments, judge
from vit_edge.export.collapse.probes import LINEAR, OUTPUT, Probe
from vit_edge.export.outputs import JOINED
from vit_edge.export.precision.int8 import INT8

CHANNELS, SAMPLES = 64, 16
PROBE = Probe(ir.val("x", shape=ir.Shape([None, 17, CHANNELS])), LINEAR, "blocks.0.mlp.fc1")


def everywhere(value: float) -> np.ndarray:
    return np.full(CHANNELS, value)


def in_one_channel(value: float) -> np.ndarray:
    return np.where(np.arange(CHANNELS) == 3, value, 0.0)


def found(error: np.ndarray, squared: np.ndarray, product: np.ndarray) -> str:
    zero = everywhere(0.0)
    moments = Moments(zero, everywhere(1.0), error, squared, product, zero, SAMPLES)
    fault = judge(PROBE, moments, None, INT8().limits)
    return "" if fault is None else fault.what


@pytest.mark.parametrize(
    ("error", "squared", "product", "what"),
    [
        (everywhere(0), everywhere(0), everywhere(0), ""),
        (everywhere(0), everywhere(0.05**2), everywhere(0.05), "the output gain is off by 5.00%"),
        (everywhere(0.03), everywhere(0.03**2), everywhere(0), "a constant shift"),
        (
            everywhere(0),
            in_one_channel(0.2**2),
            in_one_channel(0.2),
            "the gain of channel 3 is off by 18.18%",
        ),
        # Noise of 0.2 makes a gain of 0.16 in 16 samples by chance; without noise it is a fault.
        (everywhere(0), in_one_channel(0.066), in_one_channel(0.16), ""),
        (everywhere(0), in_one_channel(0.0256), in_one_channel(0.16), "the gain of channel 3"),
        (everywhere(0), everywhere(0.1**2), everywhere(0), "relative error 0.1"),
        (everywhere(0), in_one_channel(0.4**2), everywhere(0), "relative error of a channel"),
    ],
)
def test_measure(error: np.ndarray, squared: np.ndarray, product: np.ndarray, what: str) -> None:
    sentence = found(error, squared, product)
    assert sentence.startswith(what)
    assert bool(sentence) == bool(what)


@pytest.mark.parametrize(("name", "is_found"), [("logits", True), (JOINED, False)])
def test_numbers_of_joined_outputs_are_no_channels(name: str, is_found: bool) -> None:
    """Of a map's pixels one may be excited by a single image, by chance."""
    value = ir.val(name, shape=ir.Shape([None, CHANNELS]))
    zero, squared, product = everywhere(0.0), in_one_channel(1.2**2), in_one_channel(1.2)
    moments = Moments(zero, everywhere(1.0), zero, squared, product, zero, SAMPLES)
    fault = judge(Probe(value, OUTPUT, OUTPUT), moments, None, INT8().limits)
    assert (fault is not None) == is_found
