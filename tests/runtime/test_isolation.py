"""The runtime is thin: numpy and one backend, nothing else; and packages import downwards only."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "vit": {"vit", "runtime"},
    "calibration": {"calibration", "runtime"},
    "export": {"export", "calibration", "vit", "runtime"},
}
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnx_ir", "onnxscript", "PIL", "rich",
        "sklearn", "tensorrt_rtx", "matplotlib", "jinja2", BLOCKED}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""


MOST_FILES = 20
"""Of our own, that `import vit_edge` loads."""
OTHER = {"onnxruntime": "openvino", "openvino": "onnxruntime"}


def isolated(
    code: str, *arguments: str, backend: str = "onnxruntime"
) -> subprocess.CompletedProcess[str]:
    """Runs `code` where numpy and that backend are all there is."""
    block = BLOCK.replace("BLOCKED", repr(OTHER[backend]))
    return subprocess.run(
        [sys.executable, "-c", block + code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        check=False,
    )


@pytest.mark.parametrize("backend", OTHER)
def test_a_bundle_runs_with_numpy_and_one_backend_alone(bundle_source: Path, backend: str) -> None:
    code = (
        "import numpy as np\nfrom vit_edge import Engine\n"
        "with Engine.load(sys.argv[1]) as engine:\n"
        "    print(engine(np.zeros((5, 8, 8, 1), np.uint8)).shape, engine.info.backend)\n"
    )
    done = isolated(code, str(bundle_source), backend=backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"(5, 10) {backend}"


@pytest.mark.parametrize("command", ["check", "compare", "inspect", "tune"])
def test_commands_run_with_numpy_and_onnxruntime_alone(bundle_source: Path, command: str) -> None:
    code = "from vit_edge.runtime.tools.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = isolated(
        code,
        command,
        str(bundle_source),
        *(["--json", "--seconds", "0.1"] if command == "compare" else []),
        *(["--precision", "fp32", "--seconds", "0.01"] if command == "tune" else []),
    )
    assert done.returncode == 0, done.stderr
    assert "fp32" in done.stdout
    if command == "compare":
        folder = bundle_source.with_name(f"{bundle_source.name}.compare")
        assert "pip install 'matplotlib>=3.9' 'jinja2>=3.1'" in done.stderr
        assert f"vit-edge report {folder / 'report.json'}" in done.stderr
        done = isolated(code, "report", str(folder / "report.json"), "--out", "/dev/null")
        assert done.returncode == 2
        assert "pip install 'matplotlib>=3.9' 'jinja2>=3.1'" in done.stderr


def test_measuring_imports_nothing_that_draws() -> None:
    code = (
        "import sys\nfrom vit_edge.runtime.tools.cli import build_parser\nbuild_parser()\n"
        "assert not {'matplotlib', 'jinja2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_export_without_its_extra_says_how_to_get_it() -> None:
    code = "from vit_edge.runtime.tools.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = isolated(code, "export", "vit_digits")
    assert done.returncode == 2
    assert "pip install '.[export" in done.stderr
    assert "Traceback" not in done.stderr


def test_export_model_is_there_where_its_extra_is() -> None:
    done = isolated("from vit_edge import export_model")
    assert done.returncode == 1
    assert (
        "`export_model` needs torch: pip install '.[export,onnxruntime]' in a checkout of vit-edge"
        in done.stderr
    )
    code = "import sys, vit_edge\nfrom vit_edge import *\nprint('torch' in sys.modules)"
    assert isolated(code).stdout.strip() == "False"


def test_a_later_load_imports_the_chosen_backend_alone(bundle_source: Path) -> None:
    code = (
        "from vit_edge.runtime import Engine\n"
        "with Engine.load(sys.argv[1], 'fp32') as engine:\n"
        "    print(engine.info.backend, 'onnxruntime' in sys.modules, 'openvino' in sys.modules)\n"
    )
    for _ in range(2):  # the first load measures both
        done = subprocess.run(
            [sys.executable, "-c", "import sys\n" + code, str(bundle_source)],
            capture_output=True, text=True, cwd=ROOT, check=True,
        )  # fmt: skip
    backend, *imported = done.stdout.split()
    assert imported == [str(backend == name) for name in ("onnxruntime", "openvino")]


def test_importing_the_runtime_imports_no_backend() -> None:
    code = (
        "import vit_edge, vit_edge.runtime.backends\n"
        "heavy = {'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = isolated(code)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_few_files_and_no_tools() -> None:
    code = "import sys, vit_edge\nprint(*(m for m in sys.modules if m.startswith('vit_edge')))"
    loaded = isolated(code).stdout.split()
    assert "vit_edge.runtime.engine" in loaded
    assert len(loaded) <= MOST_FILES, sorted(loaded)
    assert not [name for name in loaded if name.startswith("vit_edge.runtime.tools")]


def test_the_device_core_imports_no_tools() -> None:
    """Neither at its top nor inside a function; but for the command line and `read_video`."""
    core = [*(ROOT / "runtime").glob("*.py"), *(ROOT / "runtime" / "backends").rglob("*.py")]
    importers = set()
    for path in core:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and "tools" in str(node.module).split("."):
                importers.add(path.name)
    assert len(core) > 25
    assert importers == {"__main__.py", "__init__.py"}


@pytest.mark.slow
def test_the_oldest_python_imports_the_package_with_numpy_alone(tmp_path: Path) -> None:
    oldest = shutil.which("python3.10")
    if oldest is None or subprocess.run([oldest, "-V"], check=False).returncode != 0:
        pytest.skip("there is no Python 3.10 here")
    subprocess.run([oldest, "-m", "venv", tmp_path / "v"], check=True)
    python = tmp_path / "v" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy"], check=True)
    code = (
        "import importlib, pkgutil, vit_edge, vit_edge.runtime\n"
        "modules = pkgutil.walk_packages(vit_edge.runtime.__path__, 'vit_edge.runtime.')\n"
        "names = [m.name for m in modules if not m.name.endswith('__main__')]\n"
        "print(len([importlib.import_module(name) for name in names]))"
    )
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


HEAVY = {
    "argparse", "asyncio", "concurrent.futures", "email", "importlib.metadata", "multiprocessing",
    "socket", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "xml",
}  # fmt: skip
"""Parts of the standard library that cost milliseconds, and that few applications need."""


def test_importing_the_runtime_is_quick() -> None:
    """Counted, for milliseconds depend on the machine: `benchmarks/footprint.py` measures them."""
    code = (
        "import numpy, numpy.typing\nbefore = set(sys.modules)\nimport vit_edge\n"
        "print(*(set(sys.modules) - before))"
    )
    added = isolated(code).stdout.split()
    assert "vit_edge.runtime.engine" in added
    assert not HEAVY & set(added)
    others = [name for name in added if name.split(".")[0] != "vit_edge"]
    assert len(others) <= 50, sorted(others)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_downwards_only(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            assert not {name.split(".")[0] for name in names} & MAY_IMPORT.keys(), path
            ours = {name.split(".")[1] for name in names if name.startswith("vit_edge.")}
            assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_runtime_imports_only_numpy_and_the_standard_library_at_import_time() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        drawing = {"matplotlib", "jinja2"} if path.parent.name == "report" else set()
        in_server = {"triton_python_backend_utils"} if path.name.endswith("_model.py") else set()
        allowed = {"numpy", "vit_edge", *drawing, *in_server, *sys.stdlib_module_names}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert {a.name.split(".")[0] for a in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert str(node.module).split(".")[0] in allowed, path
