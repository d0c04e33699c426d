"""The contenders: our engines and every other way to run a ViT on a CPU.

Each peer runs as its documentation recommends for CPUs. Quantisers get our optimised fp32 graph and
the same calibration images, so that they are compared as quantisers; what they make runs in ONNX
Runtime and in OpenVINO.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..contest import Entrant

FP32, BF16, INT8 = "fp32", "bf16", "int8"
TYPES = (FP32, BF16, INT8)
"""Classes of precision: the types of a row's matrix products."""

CORE = "ours"
"""The environment that everything runs in which our own extras install."""


@dataclass(frozen=True)
class Contender:
    """A way to run the model.

    Attributes:
        name: As the tables have it.
        type: Its class, one of `TYPES`.
        opener: A key of `benchmarks.speed.openers.OPENERS`.
        setting: Argument of the opener.
        environment: A name of `benchmarks.environments`.
        entrant: The quantiser that makes its file; None if it runs the model itself.
        is_ours: True for our own engines.
    """

    name: str
    type: str
    opener: str
    setting: str = ""
    environment: str = CORE
    entrant: Entrant | None = None
    is_ours: bool = False

    @property
    def slug(self) -> str:
        """Returns the name as a file name."""
        return "".join(c if c.isalnum() else "_" for c in self.name)


def _ours() -> Iterator[Contender]:
    for backend, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        for precision in TYPES:
            name = f"vit-edge {precision}, {title}"
            yield Contender(name, precision, backend, precision, is_ours=True)


_QUANTISERS = (
    ("ONNX Runtime quantiser, static default", Entrant("onnxruntime", "default", "onnxruntime")),
    ("ONNX Runtime quantiser, static, Linears", Entrant("onnxruntime", "minmax", "onnxruntime")),
    ("ONNX Runtime quantiser, dynamic", Entrant("onnxruntime", "dynamic", "onnxruntime")),
    ("NNCF, transformer", Entrant("nncf", "transformer", "nncf")),
    ("ModelOpt, no attention", Entrant("modelopt", "no attention, max", "modelopt")),
)
_ONNX_RUNTIME_ONLY = ("ONNX Runtime quantiser, dynamic",)
"""Made of operators of ONNX Runtime's own."""


def _quantised() -> Iterator[Contender]:
    for name, entrant in _QUANTISERS:
        yield Contender(f"{name}, in ONNX Runtime", INT8, "onnx_in_onnxruntime", entrant=entrant)
        if name not in _ONNX_RUNTIME_ONLY:
            yield Contender(f"{name}, in OpenVINO", INT8, "onnx_in_openvino", entrant=entrant)


CONTENDERS = (
    *_ours(),
    Contender("PyTorch eager fp32", FP32, "torch_eager", FP32),
    Contender("PyTorch eager bf16", BF16, "torch_eager", BF16),
    Contender("torch.compile fp32", FP32, "torch_compile", FP32),
    Contender("torch.compile bf16", BF16, "torch_compile", BF16),
    Contender("torchao INT8 dynamic, torch.compile", INT8, "torchao", environment="torchao"),
    Contender("ONNX Runtime fp32", FP32, "onnx_in_onnxruntime"),
    Contender("OpenVINO fp32", FP32, "onnx_in_openvino", "f32"),
    Contender("OpenVINO bf16", BF16, "onnx_in_openvino", "bf16"),
    *_quantised(),
)
REFERENCE = "PyTorch eager fp32"
"""The contender whose logits are the reference."""

QUICK = tuple(c for c in CONTENDERS if c.environment == CORE and c.entrant is None)
"""Those that need no environment of their own."""
