"""Job of a quantiser, and its answer: runs in each peer's own environment, where only numpy is
sure to be installed.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT = "images"


@dataclass(frozen=True)
class Job:
    """Quantise `model` by `setting` into `out`.

    Attributes:
        model: The fp32 ONNX file, uint8 `[batch, height, width, channels]` in.
        images: An `.npy` of calibration images.
    """

    model: str
    images: str
    setting: str
    out: str

    def calibration(self) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = np.load(self.images)
        return images

    def feeds(self) -> list[dict[str, NDArray[np.uint8]]]:
        """Feeds one image each, like the peers' documentation."""
        return [{INPUT: image[None]} for image in self.calibration()]


Quantise = Callable[[Job], None]


def save(job: Job, path: Path) -> None:
    path.write_text(json.dumps(asdict(job)))


def main(settings: dict[str, Quantise]) -> None:
    """Runs the job in the first file of the command line and writes the answer to the second."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    answer: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        settings[job.setting](job)
    except Exception as error:  # whatever a peer stumbles over is its result
        traceback.print_exc()
        answer["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    answer["seconds"] = time.perf_counter() - start
    answer["peak_mib"] = _peak_mib()
    Path(sys.argv[2]).write_text(json.dumps(answer))


def _peak_mib() -> float:
    """Returns the peak memory of this process; `getrusage` would count its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
