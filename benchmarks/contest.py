"""The quantisers of the contest: each runs once on a model, in its own process, and is cached."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environments import PEERS, python_of
from .peers.job import Job, save

THREADS = 2
_LIMIT_S = 1800


@dataclass(frozen=True)
class Entrant:
    """A quantiser with settings: a module in `peers/`, and the environment that it runs in."""

    peer: str
    setting: str
    environment: str

    @property
    def name(self) -> str:
        return f"{self.peer}, {self.setting}"


def _entrants(peer: str, *settings: str) -> list[Entrant]:
    return [Entrant(peer, setting, peer) for setting in settings]


OURS = Entrant("ours", "int8", "ours")
ENTRANTS = (
    OURS,
    *_entrants("onnxruntime", "default", "minmax", "entropy", "percentile"),
    Entrant("onnxruntime", "smooth", "onnxruntime-smooth"),
    Entrant("onnxruntime", "smooth Linears", "onnxruntime-smooth"),
    *_entrants("nncf", "default", "transformer", "accurate", "smooth 0.5"),
    *_entrants("modelopt", "default", "no attention, max", "Linears, max", "Linears, entropy"),
)


@dataclass(frozen=True)
class Quantised:
    """Result of an entrant; `error` instead of a file if it failed."""

    entrant: Entrant
    file: Path
    seconds: float
    peak_mib: float
    error: str | None


def quantised(entrant: Entrant, model: Path, images: Path, cache: Path) -> Quantised:
    """Runs the entrant on the fp32 file `model`, unless it was run on it before."""
    key = hashlib.sha256(model.read_bytes() + images.read_bytes())
    key.update(f"{entrant}".encode())
    for source in _sources(entrant):
        key.update(source.read_bytes())
    file = cache / "quantised" / f"{entrant.peer}-{key.hexdigest()[:16]}.onnx"
    answer_file = file.with_suffix(".json")
    if not answer_file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        answer_file.write_text(json.dumps(_run(entrant, model, images, file, cache)))
    answer = json.loads(answer_file.read_text())
    return Quantised(entrant, file, answer["seconds"], answer["peak_mib"], answer.get("error"))


def _sources(entrant: Entrant) -> list[Path]:
    """Lists the source files that the entrant's result depends on."""
    ours = [f for folder in ("calibration", "export") for f in sorted(Path(folder).rglob("*.py"))]
    scripts = [PEERS / "job.py", PEERS / f"{entrant.peer}.py"]
    return scripts + (ours if entrant == OURS else [PEERS / f"{entrant.environment}.txt"])


def _run(entrant: Entrant, model: Path, images: Path, out: Path, cache: Path) -> dict[str, Any]:
    failed = {"seconds": 0.0, "peak_mib": 0.0}
    try:
        python = python_of(entrant.environment, cache)
    except RuntimeError as error:
        return failed | {"error": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        job, reply = Path(folder) / "job.json", Path(folder) / "answer.json"
        paths = (str(path.absolute()) for path in (model, images, out))
        model_path, images_path, out_path = paths
        save(Job(model_path, images_path, entrant.setting, out_path), job)
        command: list[str | Path]
        command = [python, "-m", f"benchmarks.peers.{entrant.peer}", job, reply]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=_environment(), timeout=_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return failed | {"error": f"not done after {_LIMIT_S} s"}
        out.with_suffix(".log").write_text(done.stdout + done.stderr)
        if not reply.exists():
            return failed | {"error": f"ended with status {done.returncode}"}
        answer: dict[str, Any] = json.loads(reply.read_text())
    return answer


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(THREADS), "ORT_DISABLE_TELEMETRY": "1"}
