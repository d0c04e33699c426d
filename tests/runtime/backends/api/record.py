"""Records the genuine APIs of TensorRT and CUDA beside this file, for `recorded`.

    python -m tests.runtime.backends.api.record [NAME-VERSION ...]

By hand, after adding a version below; needs a package index, and gcc for TensorRT's bindings. Each
library is installed alone in a new environment. The bindings of full TensorRT load shared libraries
that come from NVIDIA's own index: empty stand-ins with the symbols that they look up are enough to
import them, because their API is listed and never called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_SYMBOLS = """
createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL
createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry
getPluginRegistry getNvOnnxParserVersion initLibNvInferPlugins
"""


@dataclass(frozen=True)
class Library:
    """What is installed (exact versions), the module that is described, and the shared libraries
    that get a stand-in.
    """

    module: str
    requirements: tuple[str, ...]
    stand_ins: tuple[str, ...] = ()


def _tensorrt(requirement: str, major: int) -> Library:
    names = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
    return Library(
        "tensorrt_bindings", (requirement,), tuple(f"{name}.so.{major}" for name in names)
    )


LIBRARIES = {
    "tensorrt-10.3.0": _tensorrt("tensorrt-cu12-bindings==10.3.0", 10),
    "tensorrt-10.16.1": _tensorrt("tensorrt-cu13-bindings==10.16.1.11", 10),
    "tensorrt-11.4.0": _tensorrt("tensorrt-cu13-bindings==11.4.0.106", 11),
    "tensorrt_rtx-1.7.1": Library(
        "tensorrt_rtx",
        (
            "tensorrt-rtx-cu13==1.7.1.116",
            "tensorrt-rtx-cu13-bindings==1.7.1.116",
            "tensorrt-rtx-cu13-libs==1.7.1.116",
        ),
    ),
    "tensorrt_lean-10.3.0": Library(
        "tensorrt_lean_bindings",
        ("tensorrt-lean-cu12-bindings==10.3.0",),
        ("libnvinfer_lean.so.10",),
    ),
    "tensorrt_lean-11.4.0": Library(
        "tensorrt_lean",
        (
            "tensorrt-lean-cu13==11.4.0.106",
            "tensorrt-lean-cu13-bindings==11.4.0.106",
            "tensorrt-lean-cu13-libs==11.4.0.106",
        ),
    ),
    "cuda_bindings-12.8.0": Library("cuda.bindings.runtime", ("cuda-bindings==12.8.0",)),
    "cuda_bindings-13.5.0": Library(
        "cuda.bindings.runtime", ("cuda-bindings==13.5.0", "cuda-pathfinder==1.9.0")
    ),
}


def main() -> None:
    for name in sys.argv[1:] or LIBRARIES:
        with tempfile.TemporaryDirectory() as folder:
            described = _describe_alone(LIBRARIES[name], Path(folder))
        file = _HERE / f"{name}.json"
        lines = (f'"{part}": {_one_line_each(value)}' for part, value in described.items())
        file.write_text("{" + ",\n".join(lines) + "}\n")
        print(f"{file.name}: {file.stat().st_size // 1000} kB")


def _one_line_each(value: object) -> str:
    """JSON with a line for each class or function, so that a new recording shows as a diff."""
    if not isinstance(value, dict):
        return json.dumps(value)
    compact = (
        f"{json.dumps(key)}: {json.dumps(entry, separators=(',', ':'))}"
        for key, entry in value.items()
    )
    return "{\n" + ",\n".join(compact) + "}"


def _describe_alone(library: Library, folder: Path) -> dict[str, object]:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *library.requirements], check=True)
    for name in library.stand_ins:
        _make_stand_in(folder / name)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    found = subprocess.run(
        [python, "-I", _HERE / "describe.py", library.module],
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    return dict(json.loads(found.stdout))


def _make_stand_in(file: Path) -> None:
    """A shared library with the symbols and nothing behind them."""
    source = "".join(f"void {symbol}(void) {{}}\n" for symbol in _SYMBOLS.split())
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{file.name}", "-o", file]
    subprocess.run(command, input=source.encode(), check=True)


if __name__ == "__main__":
    main()
