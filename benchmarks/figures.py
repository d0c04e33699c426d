"""Public latencies of ViTs in TensorRT and its relatives, to compare estimates with.

FasterTransformer's rows are of its own kernels, and launched one by one, so that single images on
an A100 wait for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

FASTER_TRANSFORMER = "NVIDIA/FasterTransformer, docs/vit_guide.md, C++"
JETSON_LAB = "NVIDIA Jetson AI Lab, benchmarks"


@dataclass(frozen=True)
class Figure:
    """A measured latency.

    Attributes:
        device: A key of `runtime.tools.plan.devices.DEVICES`.
        model: A variant of ours with the same shapes.
        precision, batch: Those of the engine.
        milliseconds: Time of one call.
        source: Publication of the measurement.
    """

    device: str
    model: str
    precision: str
    batch: int
    milliseconds: float
    source: str


_BASE, _LARGE = "vit_base_patch16_224", "vit_large_patch16_224"
_CLIP = "vit_large_patch14_clip_quickgelu_224"

FIGURES = (
    Figure("T4", _BASE, "fp16", 1, 3.43, FASTER_TRANSFORMER),
    Figure("T4", _BASE, "fp16", 8, 14.46, FASTER_TRANSFORMER),
    Figure("T4", _BASE, "int8", 1, 2.16, FASTER_TRANSFORMER),
    Figure("T4", _BASE, "int8", 8, 8.37, FASTER_TRANSFORMER),
    Figure("T4", _LARGE, "fp16", 8, 47.55, FASTER_TRANSFORMER),
    Figure("T4", _LARGE, "int8", 8, 24.38, FASTER_TRANSFORMER),
    Figure("T4", _CLIP, "fp16", 8, 65.63, "NVIDIA/Model-Optimizer issue 167, trtexec"),
    Figure("A100", _BASE, "fp16", 1, 1.53, FASTER_TRANSFORMER),
    Figure("A100", _BASE, "fp16", 8, 3.03, FASTER_TRANSFORMER),
    Figure("A100", _BASE, "int8", 8, 2.38, FASTER_TRANSFORMER),
    Figure("A100", _BASE, "fp16", 8, 2.20, "facebookincubator/AITemplate, examples/04_vit"),
    Figure("A100", _LARGE, "fp16", 8, 8.09, FASTER_TRANSFORMER),
    Figure("A100", _LARGE, "int8", 8, 5.44, FASTER_TRANSFORMER),
    Figure("A100", _LARGE, "fp16", 64, 48.1, "FlagOpen/FlagPerf, vit_l_16, TensorRT 8.5"),
    Figure("RTX A6000", _BASE, "fp16", 64, 31.2, "SqueezeBits/owlite-examples, TensorRT"),
    Figure("RTX A6000", _BASE, "int8", 64, 20.1, "SqueezeBits/owlite-examples, TensorRT"),
    Figure("RTX 6000 Ada", _CLIP, "fp16", 128, 166.2, "NVIDIA blog on FP8 checkpoints, TensorRT"),
    Figure("RTX 6000 Ada", _CLIP, "fp8", 128, 119.8, "NVIDIA blog on FP8 checkpoints, TensorRT"),
    Figure("RTX PRO 6000", _BASE, "fp16", 64, 7.90, "ldu-nvidia/profiling_blackwell, trtexec"),
    Figure("Orin Nano", _BASE, "fp16", 1, 10.2, JETSON_LAB),
    Figure("Orin Nano Super", _BASE, "fp16", 1, 6.33, JETSON_LAB),
)
