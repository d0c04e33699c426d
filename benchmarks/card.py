"""The measured card: its name, and the state that its speed depends on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import torch

_STATE = (
    "driver_version",
    "persistence_mode",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
"""Fields of `nvidia-smi --query-gpu`; Jetson boards have no nvidia-smi that answers them."""


@dataclass(frozen=True)
class Card:
    """A device that runs PyTorch, and the engines beside it.

    Attributes:
        device: PyTorch's name for it.
        synchronize: Waits until all work on it is done.
        state: Current clocks, power and driver, in words; empty if unknown.
    """

    name: str
    device: str
    synchronize: Callable[[], None]
    state: Callable[[], dict[str, str]]

    @property
    def slug(self) -> str:
        """Returns the name as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def find_gpu() -> Card | None:
    """Returns the GPU that PyTorch uses; None if there is none."""
    if not torch.cuda.is_available():
        return None
    return Card(torch.cuda.get_device_name(), "cuda", torch.cuda.synchronize, read_state)


def read_state(command: str = "nvidia-smi") -> dict[str, str]:
    """Reads the state of the first GPU from its driver."""
    query = [command, f"--query-gpu={','.join(_STATE)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.stdout.strip().split(",")]
    return dict(zip(_STATE, values, strict=True)) if len(values) == len(_STATE) else {}
