"""Names, attributes and arguments of TensorRT and CUDA that our code uses exist in each release."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mypy import api as mypy

from vit_edge.runtime.backends import cuda, tensorrt

from .api import MODULE, Api, recorded, recordings
from .api.stubs import write_stub

ROOT = Path(tensorrt.__file__).parents[4]
FILES = {file.stem: file for file in sorted(Path(tensorrt.__file__).parent.glob("*.py"))}
PACKAGE = tensorrt.__name__
CUDA_FILE = Path(cuda.__file__)
NOT_FOR_LEAN = {"build", "child", "inspect"}
"""Files that need the whole library: TensorRT lean has no builder, parser and inspector."""
LIBRARIES = ("tensorrt", "tensorrt_rtx", "tensorrt_lean")
Check = Callable[..., str]
pytestmark = pytest.mark.types


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs of each release, and mypy's cache."""
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture
def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs mypy on some of our files as if `api` were installed as `tensorrt`."""

    def run(api: Api, names: list[str], *options: str) -> str:
        stubs = folder / f"{api.library}-{api.version}"
        stubs.mkdir(exist_ok=True)
        write_stub(api, stubs, "tensorrt")
        write_stub(recordings("tensorrt_rtx")[-1], stubs, "tensorrt_rtx")
        monkeypatch.setenv("MYPYPATH", f"{stubs}:{ROOT}")
        printed, errors, _ = mypy.run(
            [
                f"--config-file={ROOT / 'pyproject.toml'}",
                f"--cache-dir={folder / 'cache'}",
                "--follow-imports=silent",
                "--no-warn-unused-ignores",  # of base classes, which are `Any` without stubs
                "--no-error-summary",
                *options,
                *(f"-m{PACKAGE}.{name}".removesuffix(".__init__") for name in names),
            ]
        )
        return printed + errors

    return run


@pytest.mark.parametrize(
    "api",
    [api for library in LIBRARIES for api in recordings(library)],
    ids=lambda api: f"{api.library}-{api.version}",
)
def test_our_code_uses_only_what_the_release_has(check: Check, api: Api) -> None:
    lacking = NOT_FOR_LEAN if api.library == "tensorrt_lean" else set[str]()
    assert check(api, [name for name in FILES if name not in lacking]) == ""


@pytest.mark.parametrize(
    ("name", "ours", "wrong", "version", "problem"),
    [
        ("build", "BuilderFlag.TF32", "BuilderFlag.FP16", "11.4.0", 'no attribute "FP16"'),
        ("build", "BuilderFlag.TF32", "BuilderFlag.FP16", "10.3.0", None),
        ("build", "trt.OnnxParser", "trt.Parser", "11.4.0", '"trt.Parser" is not defined'),
        ("build", ".Builder(logger)", ".Builder()", "11.4.0", "Missing positional argument"),
        ("build", "config.max_aux_streams =", "builder.logger =", "11.4.0", "is read-only"),
        ("build", "ignore_mismatch", "mismatch", "11.4.0", "Unexpected keyword argument"),
        ("build", "phase_name: str, step:", "step:", "11.4.0", "incompatible with supertype"),
        ("contexts", ".deserialize(", ".read(", "11.4.0", 'no attribute "read"'),
        ("contexts", ".set_input_shape", ".set_shape", "11.4.0", '"IExecutionContext" has no'),
        ("contexts", "context.execute_async_v3(", "context.execute(", "10.3.0", "has no attribute"),
        ("contexts", "device_memory_size_v2", "device_memory_size", "10.3.0", None),
        ("contexts", "device_memory_size_v2", "device_memory_size", "11.4.0", "has no attribute"),
        ("session", ".num_io_tensors", ".num_bindings", "11.4.0", '"ICudaEngine" has no'),
        ("__init__", "ILogger.ERROR", "ILogger.FATAL", "11.4.0", 'no attribute "FATAL"'),
    ],
)
def test_a_wrong_name_is_found(
    check: Check,
    tmp_path: Path,
    name: str,
    ours: str,
    wrong: str,
    version: str,
    problem: str | None,
) -> None:
    file, copy = FILES[name], tmp_path / "copy.py"
    assert ours in file.read_text()
    copy.write_text(file.read_text().replace(ours, wrong))
    said = check(recorded("tensorrt", version), [name], "--shadow-file", str(file), str(copy))
    assert problem in said if problem else said == ""


def test_features_that_are_asked_for_exist_in_some_releases_only() -> None:
    """`hasattr` takes a string, which mypy believes."""
    nodes = [node for file in FILES.values() for node in ast.walk(ast.parse(file.read_text()))]
    features = {
        node.args[1].value
        for node in nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "hasattr"
        and isinstance(node.args[1], ast.Constant)
    }
    assert len(features) >= 4
    for feature in features:
        has = {api.has(MODULE, feature) for library in LIBRARIES for api in recordings(library)}
        assert has == {True, False}, feature


def cuda_problems(source: str, api: Api) -> list[str]:
    """CUDA names of our code that a release lacks, and calls that it does not take.

    Our calls name a function: `_call("cudaMalloc", size)`.
    """
    enums = [cls for cls in api.classes if api.enum(cls)]
    problems = []
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
        ours = isinstance(name, str) and re.fullmatch(r"cuda[A-Z]\w*", name)
        if ours and not any(api.has(owner, str(name)) for owner in (MODULE, *enums)):
            problems.append(f"no {name}")
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            signatures, count = api.signatures(MODULE, str(node.args[0].value)), len(node.args) - 1
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            if signatures and not starred and not any(s.takes(count, ()) for s in signatures):
                problems.append(f"{ast.unparse(node)} takes other arguments")
    return problems


@pytest.mark.parametrize("api", recordings("cuda_bindings"), ids=lambda api: api.version)
def test_our_code_uses_only_what_cuda_has(api: Api) -> None:
    source = CUDA_FILE.read_text()
    assert cuda_problems(source, api) == []
    properties = re.findall(r"propert\w+(?:\(\))?\.(\w+)", source)
    assert {"name", "major", "minor"} <= set(properties)
    assert [name for name in properties if not api.has("cudaDeviceProp", name)] == []


@pytest.mark.parametrize(
    "code", ["_call('cudaMalloc')", "_call('cudaMallocQuick', 3)", "_runtime().cudaHostAllocQuick"]
)
def test_a_wrong_cuda_name_or_call_is_found(code: str) -> None:
    assert len(cuda_problems(code, recorded("cuda_bindings", "13.5.0"))) == 1
