"""NVIDIA's ModelOpt for ONNX, calibrated on the CPU.

`default` is `quantize` as it comes (entropy; fp16 around it). The others are what its documentation
and its issues recommend for ViTs: no Q/DQ inside attention, or on the Linears alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from modelopt.onnx.quantization import quantize

from .job import INPUT, Job, main


def run(options: dict[str, Any], job: Job) -> None:
    quantize(
        job.model,
        calibration_data={INPUT: job.calibration()},
        calibration_eps=["cpu"],
        output_path=job.out,
        log_level="WARNING",
        **options,
    )


VIT = {"disable_mha_qdq": True, "high_precision_dtype": "fp32"}
LINEARS = VIT | {"op_types_to_quantize": ["MatMul", "Gemm"]}

if __name__ == "__main__":
    main(
        {
            "default": partial(run, {}),
            "fp8": partial(run, {"quantize_mode": "fp8"}),
            "no attention, max": partial(run, VIT | {"calibration_method": "max"}),
            "Linears, max": partial(run, LINEARS | {"calibration_method": "max"}),
            "Linears, entropy": partial(run, LINEARS | {"calibration_method": "entropy"}),
        }
    )
