"""ONNX Runtime's static quantiser.

`default` is `quantize_static` as it comes. The others follow its documentation for accuracy on
x86-64: pre-processed graph, Q/DQ, weights per channel, symmetric activations, only products with
constant weights (Linears), and each of its calibration methods; `smooth` runs SmoothQuant first,
which it takes from neural-compressor.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationMethod, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from .job import Job, main

_ACCURATE: dict[str, Any] = {"ActivationSymmetric": True, "MatMulConstBOnly": True}
_LINEARS = ["MatMul", "Gemm"]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, job: Job) -> None:
        self._feeds = iter(job.feeds())

    def get_next(self) -> Any:
        return next(self._feeds, None)

    def __deepcopy__(self, memo: object) -> Reader:
        """SmoothQuant copies its reader, which no iterator allows."""
        copied = Reader.__new__(Reader)
        feeds = list(self._feeds)
        self._feeds, copied._feeds = iter(feeds), iter(feeds)
        return copied


def default(job: Job) -> None:
    quantize_static(job.model, job.out, Reader(job))


def accurate(method: CalibrationMethod, extra: dict[str, Any], job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(job.model, ready)
        quantize_static(
            str(ready),  # neural-compressor takes no Path
            job.out,
            Reader(job),
            op_types_to_quantize=_LINEARS,
            per_channel=True,
            calibrate_method=method,
            extra_options=_ACCURATE | extra,
        )


if __name__ == "__main__":
    main(
        {
            "default": default,
            "minmax": partial(accurate, CalibrationMethod.MinMax, {}),
            "entropy": partial(accurate, CalibrationMethod.Entropy, {}),
            "percentile": partial(accurate, CalibrationMethod.Percentile, {}),
            "smooth": partial(accurate, CalibrationMethod.MinMax, {"SmoothQuant": True}),
        }
    )
