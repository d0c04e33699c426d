"""Overhead of `Engine` over a backend's own call, for one frame of 224x224.

    python -m benchmarks.overhead [--calls 3000]

Expected: well under 50 microseconds on every backend, and no copy of the frame. Bare calls and
calls through the engine alternate on the same session, so that other work on the machine affects
both alike; the model is as small as a ViT can be, so that its own time hides nothing. Writes
`benchmarks/results/overhead.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime import Engine
from vit_edge.runtime.backends.cpu import cpu_name
from vit_edge.vit.checkpoints import encode_checkpoint
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

OUT = Path(__file__).parent / "results" / "overhead.json"
SMALLEST = ViTConfig(
    img_size=224, patch_size=56, num_classes=10, embed_dim=32, depth=1, n_heads=1, mlp_ratio=1.0
)
BACKENDS = ("onnxruntime", "openvino")
_WARM_UP = 200

Call = Callable[[], object]


def export_smallest(folder: Path) -> Path:
    """Exports a bundle of the smallest ViT, in fp32."""
    torch.manual_seed(0)
    weights = folder / "smallest.safetensors"
    weights.write_bytes(encode_checkpoint(VisionTransformer.from_config(SMALLEST)))
    normalised = ModelHints(mean=(0.5,) * 3, std=(0.5,) * 3)
    request = ExportRequest(
        facts=normalised, weights=str(weights), calibration="samples",
        precisions=("fp32",), targets=("onnxruntime",),
        out=folder / "bundle", calibration_size=8,
    )  # fmt: skip
    if not export_bundle(request, Display()):
        raise RuntimeError("the smallest ViT did not meet its budget")
    return folder / "bundle"


def bare_onnxruntime(engine: Engine, frame: NDArray[np.uint8]) -> Call:
    """Returns the call that an application without `runtime` makes."""
    session: Any = engine._session.here._session  # type: ignore[union-attr]
    return lambda: session.run(["logits"], {"images": frame})[0]


def bare_openvino(engine: Engine, frame: NDArray[np.uint8]) -> Call:
    """Returns OpenVINO's leanest call from Python: shared input, one copy of the logits."""
    import openvino

    pool: Any = engine._session.here._single._requests  # type: ignore[union-attr]
    with pool.lend() as request:

        def call() -> object:
            request.set_input_tensor(openvino.Tensor(frame, shared_memory=True))
            request.start_async()
            request.wait()
            return request.get_tensor("logits").data.copy()

    return call


BARE: dict[str, Callable[[Engine, NDArray[np.uint8]], Call]] = {
    "onnxruntime": bare_onnxruntime,
    "openvino": bare_openvino,
}


def alternate(calls: tuple[Call, ...], count: int) -> NDArray[np.float64]:
    """Measures microseconds `[count, len(calls)]`; the order changes from round to round."""
    for call in calls * _WARM_UP:
        call()
    times = np.empty((count, len(calls)))
    for index in range(count):
        order = range(len(calls)) if index % 2 else reversed(range(len(calls)))
        for position in order:
            start = time.perf_counter_ns()
            calls[position]()
            times[index, position] = (time.perf_counter_ns() - start) / 1e3
    return times


def measure(bundle: Path, backend: str, count: int) -> dict[str, Any]:
    """Returns a row: medians of both, and of their differences with its 95 % interval."""
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    with Engine.load(bundle, "fp32", backend) as engine:
        seen = _addresses(engine, frame)
        bare = BARE[backend](engine, frame)
        times = alternate((bare, lambda: engine(frame)), count)
        differences = times[:, 1] - times[:, 0]
        resampled = np.median(generator.choice(differences, (1000, count)), axis=1)
        return {
            "backend": backend,
            "version": engine.info.version,
            "bare_us": float(np.median(times[:, 0])),
            "engine_us": float(np.median(times[:, 1])),
            "added_us": float(np.median(differences)),
            "added_95": [float(q) for q in np.percentile(resampled, [2.5, 97.5])],
            "input_copied": seen != {frame.ctypes.data},
        }


def _addresses(engine: Engine, frame: NDArray[np.uint8]) -> set[int]:
    """Returns the addresses of the frames that reach the backend's session."""
    session: Any = engine._session
    run, seen = session.run, set[int]()
    session.run = lambda frames: (seen.add(frames.ctypes.data), run(frames))[1]
    engine(frame)
    del session.run
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_smallest(Path(folder))
        rows = [measure(bundle, backend, arguments.calls) for backend in BACKENDS]
    for row in rows:
        low, high = row["added_95"]
        print(
            f"{row['backend']} {row['version']}: bare {row['bare_us']:.0f} us, engine "
            f"{row['engine_us']:.0f} us, added {row['added_us']:.1f} us ({low:.1f} to {high:.1f}), "
            f"input copied: {row['input_copied']}"
        )
    result = {
        "machine": cpu_name(),
        "python": platform.python_version(),
        "calls": arguments.calls,
        "rows": rows,
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
