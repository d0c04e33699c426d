"""NNCF by its ONNX backend, so that all run in one runtime.

`default` is `nncf.quantize` as it comes. The others say that the model is a transformer, which
switches SmoothQuant on and keeps LayerNorms and Softmax as they are; `accurate` also corrects
biases one layer after the other, and all of them see every calibration image.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import nncf
import onnx
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)

from .job import Job, main


def quantise(options: dict[str, Any], job: Job) -> None:
    feeds = job.feeds()
    quantised = nncf.quantize(
        onnx.load(job.model), nncf.Dataset(feeds), subset_size=len(feeds), **options
    )
    onnx.save(quantised, job.out)


def _smoothing(alpha: float) -> dict[str, Any]:
    alphas = AdvancedSmoothQuantParameters(matmul=alpha)
    return {"advanced_parameters": AdvancedQuantizationParameters(smooth_quant_alphas=alphas)}


TRANSFORMER = {"model_type": nncf.ModelType.TRANSFORMER}
MIXED = TRANSFORMER | {"preset": nncf.QuantizationPreset.MIXED}

if __name__ == "__main__":
    main(
        {
            "default": partial(quantise, {}),
            "transformer": partial(quantise, TRANSFORMER),
            "accurate": partial(quantise, MIXED | {"fast_bias_correction": False}),
            "smooth 0.5": partial(quantise, MIXED | _smoothing(0.5)),
        }
    )
