"""Every TensorRT and CUDA name, attribute, argument that we use exists in the genuine releases."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from vit_edge.runtime.backends import tensorrt

from .api import MODULE, Api, recorded, recordings
from .api.usage import OTHER, Call, Usage, Use

FOLDER = Path(tensorrt.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
CUDA_FILES = sorted(FOLDER.parent.glob("cuda*.py"))
NOT_FOR_LEAN = {
    "build",
    "child",
    "inspect",
}
"""Files that need the whole library: TensorRT lean has no builder, parser and inspector."""

DECLARED = {
    "library": MODULE,
    "logger": "ILogger",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "build_config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "progress_monitor": "IProgressMonitor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "create": "IExecutionContext",
    "require": "IExecutionContext",
    "unbound": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
    "import": MODULE,
    "parse_network": "INetworkDefinition",
    "attach": "ITimingCache",
    "maker": "ILayer",
    "tensor": "ITensor",
    "makers": OTHER,
    "severity": "ILogger.Severity",
    "resource": OTHER,
    "keep": OTHER,
    "find_compute_capability": OTHER,
}
"""What the names that our code annotates `Any` hold."""
ALIASES = {"IParserError": "ParserError", "IEngineInspector": "EngineInspector"}
"""What docstrings call the class, and what Python does."""

GUARDED = {
    (MODULE, "ComputeCapability"): (MODULE, "ComputeCapability"),
    ("IBuilderConfig", "num_compute_capabilities"): (MODULE, "ComputeCapability"),
    ("IBuilderConfig", "set_compute_capability"): (MODULE, "ComputeCapability"),
    (MODULE, "CudaGraphStrategy"): (MODULE, "CudaGraphStrategy"),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): (MODULE, "CudaGraphStrategy"),
    ("ICudaEngine", "create_runtime_config"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeConfig", "cuda_graph_strategy"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeConfig", "create_runtime_cache"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeConfig", "set_runtime_cache"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeCache", "deserialize"): (MODULE, "CudaGraphStrategy"),
    ("IRuntimeCache", "serialize"): (MODULE, "CudaGraphStrategy"),
    (MODULE, "EngineInvalidityDiagnostics"): (MODULE, "EngineInvalidityDiagnostics"),
    ("Runtime", "get_engine_validity"): (MODULE, "EngineInvalidityDiagnostics"),
    ("Runtime", "engine_header_size"): (MODULE, "EngineInvalidityDiagnostics"),
}
"""Names that some releases lack, each with the feature that our code asks for before it uses it."""


def whole() -> tuple[Api, ...]:
    return (*recordings("tensorrt"), *recordings("tensorrt_rtx"))


def every() -> tuple[Api, ...]:
    return (*whole(), *recordings("tensorrt_lean"))


def usage(file: Path) -> Usage:
    found = Usage(file.name, DECLARED, whole(), ALIASES)
    found.visit(ast.parse(file.read_text()))
    return found


def problems(uses: set[Use], apis: tuple[Api, ...]) -> list[str]:
    """Of the uses in every release that has the feature they are guarded by."""
    found = []
    for api in apis:
        for use in uses:
            guard = GUARDED.get((use.owner, use.name))
            if guard is None or api.has(*guard):
                found.append(use.problem(api))
    return sorted(problem for problem in found if problem is not None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_name_that_we_use_exists(file: Path) -> None:
    found = usage(file)
    assert found.undeclared == set(), "say in DECLARED what these names hold"
    assert problems(found.uses, whole() if file.stem in NOT_FOR_LEAN else every()) == []


def test_the_proof_sees_what_we_use() -> None:
    """So that it cannot pass by looking at nothing."""
    seen = {(use.owner, use.name) for file in FILES for use in usage(file).uses}
    assert len(seen) > 45
    assert {
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "progress_monitor"),
        ("IProgressMonitor", "step_complete"),
        ("OnnxParser", "parse"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_dtype"),
        ("IExecutionContext", "execute_async_v3"),
        ("ILogger", "log"),
        ("DataType", "UINT8"),
    } <= seen


def test_what_a_release_lacks_is_asked_for_first() -> None:
    """Each row of `GUARDED` is used, is missing somewhere, and its feature is asked for."""
    found = [usage(file) for file in FILES]
    used = {(use.owner, use.name) for one in found for use in one.uses}
    asked = set().union(*(one.asked for one in found))
    for name, guard in GUARDED.items():
        assert name in used, name
        assert guard in asked, guard
        assert not all(api.has(*name) for api in every()), name


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("library.Builder(logger).create_net(0)", "has no Builder.create_net"),
        ("library.Builder()", "module.Builder does not take"),
        ("config.clear_flag(library.BuilderFlag.FP16)", "11.4.0 has no BuilderFlag.FP16"),
        ("config.set_timing_cache(cache, mismatch=True)", "does not take"),
        ("context.execute_async_v3()", "does not take"),
        ("engine.num_layers = 3", "cannot be assigned"),
        ("x = engine.create_execution_context()\nx.execute(1)", "no IExecutionContext.execute"),
        (
            "class M(library.IProgressMonitor):\n    def step_complete(self, name): ...",
            "overridden with other arguments",
        ),
    ],
)
def test_a_wrong_name_is_found(code: str, problem: str) -> None:
    found = Usage("code.py", DECLARED, whole(), ALIASES)
    found.visit(ast.parse(code))
    assert any(problem in text for text in problems(found.uses, whole()))


def test_an_undeclared_name_is_found() -> None:
    found = Usage("code.py", DECLARED, whole(), ALIASES)
    found.visit(ast.parse("def f(plan: Any, logger: Any) -> Any | None: ..."))
    assert found.undeclared == {"code.py: plan", "code.py: f"}


def cuda_uses(file: Path) -> tuple[set[str], set[Use]]:
    """CUDA names of a file, and calls: `_call("cudaMalloc", size)` or `x.cudaMalloc(size)`."""
    names, calls = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        if not isinstance(node, ast.Call):
            continue
        first, given = node.args[0] if node.args else None, len(node.args)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            name, given = first.value, given - 1
        if _is_cuda(name):
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            call = Call(None if starred else given, ())
            calls.add(Use(f"{file.name}:{node.lineno}", MODULE, name, call))
    return {name for name in names if _is_cuda(name)}, calls


def _is_cuda(name: str) -> bool:
    return re.fullmatch(r"cuda[A-Z]\w*", name) is not None


def _has_cuda(api: Api, name: str) -> bool:
    """As a name of the module or as a member of one of its enumerations."""
    enums = (cls for cls in api.classes if api.enum(cls))
    return api.has(MODULE, name) or any(api.has(enum, name) for enum in enums)


@pytest.mark.parametrize("api", recordings("cuda_bindings"), ids=lambda api: api.version)
def test_every_cuda_name_that_we_use_exists(api: Api) -> None:
    found = [cuda_uses(file) for file in CUDA_FILES]
    names = set().union(*(names for names, _ in found))
    calls = set().union(*(calls for _, calls in found))
    assert len(names) > 12
    assert len(calls) > 8
    assert [name for name in names if not _has_cuda(api, name)] == []
    assert [problem for use in calls if (problem := use.problem(api))] == []


def test_a_wrong_cuda_call_is_found(tmp_path: Path) -> None:
    file = tmp_path / "cuda.py"
    file.write_text("_call('cudaMalloc')\n_call('cudaMallocQuick', 3)\n")
    api = recorded("cuda_bindings", "13.5.0")
    names, calls = cuda_uses(file)
    assert [name for name in names if not _has_cuda(api, name)] == ["cudaMallocQuick"]
    assert len([use for use in calls if use.problem(api)]) == 2


def test_device_properties_that_we_read_exist() -> None:
    """`cudaDeviceProp` is a structure: what `_properties()` gives."""
    read = {
        node.attr
        for file in CUDA_FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("properties", "_properties()")
    }
    assert {"name", "major", "minor"} <= read
    for api in recordings("cuda_bindings"):
        assert [name for name in read if not api.has("cudaDeviceProp", name)] == []
