"""The ways in which Triton runs a bundle, and what of the bundle each of them takes."""

from __future__ import annotations

from dataclasses import dataclass

from ...bundle import Bundle
from ...deployment import Deployment
from ...errors import InputError
from ...manifest import EngineEntry, Graph


@dataclass(frozen=True)
class TritonTarget:
    """A way to run a bundle in Triton.

    Attributes:
        name: As users give it.
        backend: Triton's own name of its backend.
        like: The backend of ours whose graphs and order of precisions it shares; "" where the
            engine is chosen on the server.
        file: Name of the file in the version's folder that Triton opens.
        on_gpu: True if its instances run on a GPU.
        modes: Of an ONNX Runtime that builds TensorRT engines, its `precision_mode` for each
            precision that it can run; None for all others.
    """

    name: str
    backend: str
    like: str
    file: str
    on_gpu: bool = False
    modes: dict[str, str] | None = None


TARGETS = {
    target.name: target
    for target in (
        TritonTarget("python", "python", "", "model.py"),
        TritonTarget("tensorrt", "tensorrt", "tensorrt", "model.plan", on_gpu=True),
        TritonTarget("onnxruntime", "onnxruntime", "onnxruntime", "model.onnx"),
        TritonTarget(
            "onnxruntime-cuda", "onnxruntime", "onnxruntime-cuda", "model.onnx", on_gpu=True
        ),
        TritonTarget(
            "onnxruntime-tensorrt",
            "onnxruntime",
            "tensorrt",
            "model.onnx",
            on_gpu=True,
            # Source: onnxruntime_backend, README: FP32, FP16 or INT8, and no others.
            modes={"fp32": "FP32", "fp16": "FP16", "int8": "INT8"},
        ),
        TritonTarget("openvino", "openvino", "openvino", "model.onnx"),
    )
}
"""By the names that `--backend` takes; the first is the default."""


@dataclass(frozen=True)
class BundlePart:
    """Part of a bundle that Triton runs.

    Attributes:
        target: The way to run it.
        precision: Of the bundle's precisions; None: the engine is chosen on the server.
        graph: The graph that its tolerances are of; None likewise.
        engine: The prebuilt engine; None where a graph is run.
    """

    target: TritonTarget
    precision: str | None
    graph: Graph | None = None
    engine: EngineEntry | None = None


def choose_part(
    bundle: Bundle,
    target: TritonTarget,
    precision: str | None = None,
    capability: str | None = None,
) -> BundlePart:
    """Chooses what Triton runs of a bundle.

    Args:
        bundle: The bundle.
        target: The way to run it.
        precision: Which precision; None: the first of the export's order that there is for this
            target, and where the engine is chosen on the server its own choice.
        capability: The compute capability of the GPU that a prebuilt engine is for, as "8.9"; None
            where the bundle has an engine for one kind of GPU alone.

    Raises:
        InputError: if the bundle has nothing that this target takes, or more than one engine.
    """
    if capability is not None and target.name != "tensorrt":
        raise InputError(
            f"--compute-capability {capability} chooses a prebuilt engine, and --backend "
            f"{target.name} takes none: leave it out"
        )
    if not target.like:
        _require_precision(bundle, precision)
        return BundlePart(target, precision)
    candidates = Deployment(bundle).candidates(precision, target.like)
    names = [c.precision for c in candidates]
    if target.modes is not None:
        names = [name for name in names if name in target.modes]
    if target.name == "tensorrt":
        return _choose_engine(bundle, target, names, capability)
    if not names:
        which = "no precision" if precision is None else f"no {precision}"
        raise InputError(
            f"the bundle has {which} that --backend {target.name} runs: choose another "
            f"--precision ({', '.join(bundle.manifest.precisions)}) or --backend"
        )
    graphs = bundle.manifest.precisions[names[0]].graphs
    return BundlePart(target, names[0], graphs[candidates[0].backend.graph])


def _require_precision(bundle: Bundle, precision: str | None) -> None:
    entries = bundle.manifest.precisions
    if precision is not None and precision not in entries:
        raise InputError(
            f"the bundle has no precision {precision!r}: choose from {', '.join(entries)}"
        )


def _choose_engine(
    bundle: Bundle, target: TritonTarget, names: list[str], capability: str | None
) -> BundlePart:
    """Chooses a prebuilt engine of full TensorRT: Triton opens no other, and only one that the
    TensorRT of its own version has built for its GPU.
    """
    entries = bundle.manifest.precisions
    engines = [(n, e) for n in names for e in entries[n].engines if e.backend == target.like]
    if capability is not None:
        engines = [(n, e) for n, e in engines if capability in e.compute_capabilities]
    if not engines:
        where = "" if capability is None else f" for compute capability {capability}"
        raise InputError(
            f"the bundle has no TensorRT engine of {' or '.join(names) or 'this precision'}{where}:"
            " export it with `--target tensorrt` on a machine with that GPU and the server's "
            "TensorRT, or let the server build one: --backend onnxruntime-tensorrt"
        )
    first = engines[0][0]
    of_first = [e for n, e in engines if n == first]
    if len(of_first) > 1:
        kinds = "; ".join(
            f"{', '.join(e.compute_capabilities) or 'one GPU'} (TensorRT {e.version})"
            for e in of_first
        )
        raise InputError(
            f"the bundle has {len(of_first)} TensorRT engines of {first}, for {kinds}: choose one "
            "by --compute-capability"
        )
    return BundlePart(target, first, entries[first].graphs["gpu"], of_first[0])
