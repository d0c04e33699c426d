"""Footprint of one process: run by `footprint`, in an environment of the runtime alone.

    python -I benchmarks/footprint_probe.py sizes|imports|example|load|bare ARGUMENT ...

Prints one JSON object. Imports nothing at first, because imports are measured.
"""

import json
import sys
import time

FORBIDDEN = {"torch", "onnx", "onnx_ir", "onnxscript", "PIL", "cv2", "rich"}


def sizes() -> dict[str, int]:
    """Sums the bytes of every installed distribution, by name."""
    from importlib.metadata import distributions

    return {
        package.name: sum(file.locate().stat().st_size for file in package.files or ())  # type: ignore[union-attr]
        for package in distributions()
    }


def imports() -> dict[str, float]:
    """Measures `import numpy`, then `import vit_edge`, in milliseconds of wall and processor time:
    this thread's, because OpenBLAS's threads spin for a while after numpy is imported.
    """
    times = [(time.perf_counter(), time.thread_time())]
    import numpy  # noqa: F401

    times.append((time.perf_counter(), time.thread_time()))
    import vit_edge  # noqa: F401

    times.append((time.perf_counter(), time.thread_time()))
    _require_thin()
    start, middle, end = times
    return {
        "numpy_ms": 1e3 * (middle[0] - start[0]),
        "numpy_cpu_ms": 1e3 * (middle[1] - start[1]),
        "runtime_ms": 1e3 * (end[0] - middle[0]),
        "runtime_cpu_ms": 1e3 * (end[1] - middle[1]),
    }


def example(text: str, bundle: str) -> dict[str, str]:
    """Runs the README's example; `frames` are the application's."""
    names = {"frames": _frames(bundle)}
    exec(compile(text, "README.md", "exec"), names)
    _require_thin()
    scores = names["scores"]
    assert scores.shape[0] == 2
    return {"python": sys.version.split()[0], "numpy": sys.modules["numpy"].__version__}


def load(bundle: str, backend: str) -> dict[str, object]:
    """Loads an engine and runs it once."""
    from vit_edge.runtime import Engine

    start = time.perf_counter()
    engine = Engine.load(bundle, backend=backend)
    loaded_ms = 1e3 * (time.perf_counter() - start)
    engine(_frames(bundle))
    _require_thin()
    info = engine.info
    return {
        "load_ms": loaded_ms,
        "resident_bytes": _resident(),
        "precision": info.precision,
        "version": info.version,
    }


def bare(file: str, backend: str, shape: str) -> dict[str, object]:
    """Does the same with the backend's own library and nothing of ours."""
    import numpy

    frames = numpy.zeros((2, *json.loads(shape)), numpy.uint8)
    start = time.perf_counter()
    if backend == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        loaded_ms = 1e3 * (time.perf_counter() - start)
        session.run(None, {session.get_inputs()[0].name: frames})
    else:
        import openvino

        model = openvino.Core().compile_model(file, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        loaded_ms = 1e3 * (time.perf_counter() - start)
        model.create_infer_request().infer({0: frames})
    return {"load_ms": loaded_ms, "resident_bytes": _resident()}


def describe(bundle: str, precision: str) -> dict[str, object]:
    """Returns the CPU's graph of a precision, and the shape of its frames."""
    from vit_edge.runtime import Bundle

    manifest = Bundle.open(bundle).manifest
    graph = manifest.precisions[precision].graphs["cpu"]
    return {"file": graph.file, "shape": manifest.spec.image_shape}


def numpy_alone() -> dict[str, int]:
    import numpy  # noqa: F401

    return {"resident_bytes": _resident()}


def _frames(bundle: str):  # type: ignore[no-untyped-def]
    import numpy

    from vit_edge.runtime import Bundle

    return numpy.zeros((2, *Bundle.open(bundle).manifest.spec.image_shape), numpy.uint8)


def _resident() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _require_thin() -> None:
    heavy = FORBIDDEN & set(sys.modules)
    assert not heavy, f"the runtime imported {heavy}"


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
