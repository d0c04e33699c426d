"""What is installed is `vit_edge` alone: a user's own modules of the same names do not matter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vit_edge
from vit_edge.runtime.errors import LIBRARIES, install_command

ROOT = Path(__file__).parents[1]
OWN = ("runtime", "export", "calibration", "vit")
APP = """
import numpy as np
import calibration, export, runtime, vit

assert calibration.mine and export.mine and runtime.mine and vit.mine
frames = np.zeros((2, 8, 8, 1), np.uint8)
"""


@pytest.fixture
def app(tmp_path: Path, bundle_source: Path) -> Path:
    """The README's application in a folder full of modules of the user's own."""
    for name in OWN:
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = next(block for block in blocks if "Engine.load" in block)
    assert example.startswith("from vit_edge import Engine\n")
    (tmp_path / "app.py").write_text(APP + example.replace("build/vit_digits", str(bundle_source)))
    return tmp_path / "app.py"


def run(python: Path, *arguments: object, where: Path) -> subprocess.CompletedProcess[str]:
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=where, check=False)


def test_a_users_own_modules_do_not_matter(app: Path) -> None:
    python = Path(sys.executable)
    done = run(python, app, where=app.parent)
    assert done.returncode == 0, done.stderr
    assert re.search(r" on (onnxruntime|openvino) ", done.stdout)  # as the race ends
    command = run(python, "-m", "vit_edge", "--version", where=app.parent)
    assert command.stdout == f"vit-edge {vit_edge.__version__}\n"


def test_the_names_of_the_package_are_the_runtimes() -> None:
    assert set(vit_edge.__all__) == {*vit_edge.runtime.__all__, "__version__", "read_video"}
    for name in vit_edge.runtime.__all__:
        assert getattr(vit_edge, name) is getattr(vit_edge.runtime, name)
    assert callable(vit_edge.read_video)


@pytest.mark.slow
def test_a_wheel_holds_one_typed_package_that_runs_with_numpy_and_onnxruntime(
    app: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("build", ".*", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(copy)], check=True)
    (wheel,) = tmp_path.glob("vit_edge-*.whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"vit_edge"}
    data = {"vit_edge/py.typed", "vit_edge/runtime/tools/report/report.html.j2"}
    assert data <= set(zipfile.ZipFile(wheel).namelist())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    python = tmp_path / "v" / "bin" / "python"
    wanted = f"vit-edge[onnxruntime] @ {wheel.as_uri()}"
    constraints = ROOT / "requirements" / "constraints.txt"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [*pip, "--python", str(python), "install", "-c", str(constraints), wanted],
        check=True,
        env=environment,
    )
    done = run(python, app, where=app.parent)
    assert done.returncode == 0, done.stderr
    assert run(python.parent / "vit-edge", "--version", where=tmp_path).returncode == 0
    typing = ("-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache")
    done = run(Path(sys.executable), *typing, "--python-executable", python, app, where=app.parent)
    assert "Success" in done.stdout, done.stdout


def test_what_messages_install_is_what_the_extras_need() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for extra, libraries in LIBRARIES.items():
        (needs,) = re.findall(rf"^{extra} = \[(.*)\]$", text, re.MULTILINE)
        nested = re.findall(r"vit-edge\[(\w+)\]", needs)
        while nested:
            inner = re.findall(rf"^{nested.pop()} = \[(.*)\]$", text, re.MULTILINE)[0]
            nested += re.findall(r"vit-edge\[(\w+)\]", inner)
            needs += inner
        expected = {name for name in re.findall(r'"([^"]+)"', needs) if "vit-edge" not in name}
        assert set(libraries) == expected, extra
    assert install_command("openvino") == "pip install 'openvino>=2025.2'"
    assert install_command("export") == "pip install '.[export]' in a checkout of vit-edge"
