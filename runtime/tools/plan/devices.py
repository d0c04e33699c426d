"""GPUs that latency is estimated for, by their data sheets: dense, boost clock, GPU alone.

Sources, by device: NVIDIA's data sheets of T4, L4, A10, A100, H100; the architecture white papers
of Ada (appendix D) and RTX Blackwell; Jetson tech briefs. A multiprocessor of compute capability
8.7 does 2,048 dense FP16 operations a cycle. The sparse TOPS that Jetsons are sold with are halved,
and their DLAs left out. GeForce cards multiply FP16 at half the rate where they add in FP32, which
is what is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vit_edge.runtime.errors import InputError

PORTABLE = ("8.6", "8.9", "12.0")
"""The compute capabilities of TensorRT for RTX's portable engines."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: As people call it.
        capability: Compute capability.
        multiprocessors: Their number.
        bandwidth: Of its memory, in 10^9 bytes a second.
        cache: Second-level cache in 10^6 bytes.
        peaks: 10^12 operations a second of matrix products by type, one multiply-accumulate being
            two; types that it has no units for are not there.
        sustained: Share of the boost clock that it keeps within its power limit.
        launch: Microseconds from one kernel's end to the next one's work, in a CUDA graph.
    """

    name: str
    capability: str
    multiprocessors: int
    bandwidth: float
    cache: float
    peaks: Mapping[str, float]
    sustained: float = 1.0
    launch: float = 1.5


def _ampere(
    fp16: float, fp32: float, *, int8: float | None = None, fp8: float | None = None, fp4: float = 0
) -> dict[str, float]:
    """The rates of a GPU since Ampere, whose other types follow from FP16's."""
    peaks = {"fp32": fp32, "tf32": fp16 / 2, "fp16": fp16, "bf16": fp16, "int8": int8 or 2 * fp16}
    return peaks | ({"fp8": fp8} if fp8 else {}) | ({"fp4": fp4} if fp4 else {})


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("T4", "7.5", 40, 320, 4, {"fp32": 8.1, "fp16": 65.1, "int8": 130}, 0.5),
        Device("L4", "8.9", 58, 300, 48, _ampere(121, 30.3, fp8=242.5), 0.6),
        Device("A10", "8.6", 72, 600, 6, _ampere(125, 31.2), 0.8),
        Device("RTX A6000", "8.6", 84, 768, 6, _ampere(154.8, 38.7)),
        Device("A100", "8.0", 108, 1555, 40, _ampere(312, 19.5)),
        Device("H100", "9.0", 132, 3350, 50, _ampere(989.4, 66.9, fp8=1978.9)),
        Device("RTX 3060", "8.6", 28, 360, 3, _ampere(25.5, 12.7, int8=102)),
        Device("RTX 4060", "8.9", 24, 272, 24, _ampere(30.2, 15.1, int8=120.9, fp8=60.5)),
        Device("RTX 4090", "8.9", 128, 1008, 72, _ampere(165.2, 82.6, int8=660.6, fp8=330.3)),
        Device("RTX 6000 Ada", "8.9", 142, 960, 96, _ampere(364.2, 91.1, fp8=728.5), 0.65),
        Device(
            "RTX 5090", "12.0", 170, 1792, 96,
            _ampere(209.5, 104.8, int8=838, fp8=419, fp4=1676),
        ),
        Device(
            "RTX PRO 6000", "12.0", 188, 1792, 128,
            _ampere(503.8, 126, fp8=1007, fp4=2015),
        ),
        Device("Orin Nano", "8.7", 8, 68, 2, _ampere(10.2, 1.28), launch=4.0),
        Device("Orin Nano Super", "8.7", 8, 102.4, 2, _ampere(16.7, 2.09), launch=3.0),
        Device("Orin NX", "8.7", 8, 102.4, 2, _ampere(15.0, 1.88), launch=3.0),
        Device("AGX Orin", "8.7", 16, 204.8, 4, _ampere(42.6, 5.3), launch=2.5),
        Device(
            "Jetson Thor", "11.0", 20, 273, 32,
            _ampere(258, 8.06, fp8=517, fp4=1035), launch=2.0,
        ),
    )
}  # fmt: skip
"""By name."""


def find_device(name: str) -> Device:
    """The device of that name, in any case. Raises InputError if there is none."""
    by_name = {known.lower(): device for known, device in DEVICES.items()}
    device = by_name.get(name.lower().strip())
    if device is None:
        raise InputError(f"unknown device {name!r}: choose from {', '.join(DEVICES)}")
    return device


def nearest_capability(capability: str, built: tuple[str, ...]) -> str:
    """Of the compute capabilities that a plan was built for the nearest to a device's: the highest
    one that is not above it, else the lowest.

    Args:
        capability: The device's, as "8.7".
        built: Those of the plan; not empty.
    """
    order = sorted(built, key=_number)
    below = [known for known in order if _number(known) <= _number(capability)]
    return below[-1] if below else order[0]


def devices_for(capabilities: Sequence[str]) -> tuple[Device, ...]:
    """The devices of each of these compute capabilities; where it has none, the nearest ones."""
    known = tuple(dict.fromkeys(device.capability for device in DEVICES.values()))
    nearest = {nearest_capability(capability, known) for capability in capabilities}
    return tuple(device for device in DEVICES.values() if device.capability in nearest)


def _number(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))
