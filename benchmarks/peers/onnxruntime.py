"""ONNX Runtime's static quantiser.

`default` is `quantize_static` as it comes. The others follow its documentation for accuracy on
x86-64: pre-processed graph, Q/DQ, weights per channel, symmetric activations, inputs of Linears
alone, and each of its calibration methods; `smooth` runs SmoothQuant first, which it takes from
neural-compressor. `dynamic` quantises activations as they come.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationMethod, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from .job import Job, main

_LINEARS = ["MatMul", "Gemm"]
_ACCURATE: dict[str, Any] = {
    "ActivationSymmetric": True,
    "OpTypesToExcludeOutputQuantization": _LINEARS,  # else the residual stream gets Q/DQ
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, job: Job) -> None:
        self._feeds = iter(job.feeds())

    def get_next(self) -> Any:
        return next(self._feeds, None)

    def __deepcopy__(self, memo: object) -> Reader:
        """Copies the reader for SmoothQuant; iterators cannot be copied."""
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
            nodes_to_exclude=_attention(ready),
            calibrate_method=method,
            extra_options=_ACCURATE | extra,
        )


def dynamic(job: Job) -> None:
    """Follows its documentation for transformers: ranges of activations at run time."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(job.model, ready)
        quantize_dynamic(ready, job.out, op_types_to_quantize=_LINEARS, per_channel=True)


def smooth_linears(job: Job) -> None:
    """Runs `smooth` without the patch embedding, where neural-compressor mistakes the 64 outputs of
    a grey image's convolution for its inputs.
    """
    from neural_compressor.adaptor.ox_utils import smooth_quant

    class LinearsOnly(smooth_quant.ORTSmoothQuant):  # type: ignore[misc]
        def transform(self, alpha: float, folding: bool) -> Any:
            return super().transform(alpha, folding, op_types=_LINEARS)

    smooth_quant.ORTSmoothQuant = LinearsOnly
    accurate(CalibrationMethod.MinMax, {"SmoothQuant": True}, job)


def _attention(model: Path) -> list[str]:
    """Lists products of two activations, which `MatMulConstBOnly` does not exclude from Q/DQ."""
    graph = onnx.load(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    matmuls = [node for node in graph.node if node.op_type == "MatMul"]
    return [node.name for node in matmuls if not constants & set(node.input)]


if __name__ == "__main__":
    main(
        {
            "default": default,
            "dynamic": dynamic,
            "minmax": partial(accurate, CalibrationMethod.MinMax, {}),
            "entropy": partial(accurate, CalibrationMethod.Entropy, {}),
            "percentile": partial(accurate, CalibrationMethod.Percentile, {}),
            "smooth": partial(accurate, CalibrationMethod.MinMax, {"SmoothQuant": True}),
            "smooth Linears": smooth_linears,
        }
    )
