"""Settings of OpenVINO that change how fast a model runs, and its outputs by rounding at most.

Source: OpenVINO, "Performance Hints and Thread Scheduling" and "CPU Device".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SUITED = "suited"
"""Choice that depends on the size of the model and on the processor."""
PRODUCTS, CONVOLUTIONS = "products", "convolutions"
TOGETHER, APART = "together", "apart"
NATIVE = "native"
_CORES = {"performance": "PCORE_ONLY", "efficiency": "ECORE_ONLY", "any": "ANY_CORE"}


@dataclass(frozen=True)
class OpenVinoSettings:
    """Settings of a session; the defaults are what suits most models.

    Attributes:
        linears: A single image's Linears as `PRODUCTS` or as 1x1 `CONVOLUTIONS`.
        batches: Several images `TOGETHER` in one request, or `APART`, each in its own.
        threads: CPU threads that compute, if the caller requests no number; 0 for the default.
        arithmetic: Type of what is not quantised: "f32", "bf16" or "f16"; `NATIVE` is bf16 around
            8-bit products if the processor has it, and f32 otherwise.
        hyper_threading: "on" or "off"; `SUITED` is OpenVINO's own choice.
        cores: Kind of cores of a processor that has two: "performance", "efficiency" or "any";
            `SUITED` is OpenVINO's own choice.
    """

    linears: str = SUITED
    batches: str = SUITED
    threads: int = 0
    arithmetic: str = NATIVE
    hyper_threading: str = SUITED
    cores: str = SUITED

    def __post_init__(self) -> None:
        choices = {
            "linears": (SUITED, PRODUCTS, CONVOLUTIONS),
            "batches": (SUITED, TOGETHER, APART),
            "arithmetic": (NATIVE, "f32", "bf16", "f16"),
            "hyper_threading": (SUITED, "on", "off"),
            "cores": (SUITED, *_CORES),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.threads < 0:
            raise ValueError(f"{self.threads} threads")

    @property
    def properties(self) -> dict[str, Any]:
        """OpenVINO's properties that determine the cores that it uses."""
        properties: dict[str, Any] = {}
        if self.hyper_threading != SUITED:
            properties["ENABLE_HYPER_THREADING"] = self.hyper_threading == "on"
        if self.cores != SUITED:
            properties["SCHEDULING_CORE_TYPE"] = _CORES[self.cores]
        return properties


DEFAULTS = OpenVinoSettings()
"""Settings that suit most models."""
