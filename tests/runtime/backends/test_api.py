"""The recordings of the genuine APIs, and that they are what the installed libraries have."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from .api import MODULE, Api, Signature, parse, recorded, recordings
from .api.describe import describe
from .api.record import LIBRARIES


def test_every_library_is_recorded_and_small() -> None:
    files = {path.stem: path for path in (Path(__file__).parent / "api").glob("*.json")}
    assert files.keys() == LIBRARIES.keys()
    assert all(20_000 < path.stat().st_size < 200_000 for path in files.values())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("tensorrt_rtx", "tensorrt_rtx"),
        ("tensorrt_lean", "tensorrt_lean"),
        ("tensorrt", "tensorrt"),
        ("cuda.bindings", "cuda_bindings"),
    ],
)
def test_the_recording_is_what_the_library_has(module: str, name: str) -> None:
    try:
        version = importlib.import_module(module).__version__
    except (ImportError, OSError):
        pytest.skip(f"{module} is not installed")
    found = [api for api in recordings(name) if f"{version}.".startswith(f"{api.version}.")]
    if not found:
        pytest.skip(f"{module} {version} was not recorded")
    live = describe("cuda.bindings.runtime" if module == "cuda.bindings" else module)
    assert parse(name, found[0].version, live) == found[0]


def test_a_method_has_its_arguments_and_its_result() -> None:
    api = recorded("tensorrt", "11.4.0")
    assert api.has("IExecutionContext", "execute_async_v3")
    assert not api.has("IExecutionContext", "execute_async")
    (parse_graph,) = api.signatures("OnnxParser", "parse")
    assert parse_graph == Signature(("model", "path"), 1, "bool")
    assert api.signatures("Runtime", "nothing") == ()


def test_properties_enumerations_nested_classes_and_bases_are_told() -> None:
    api = recorded("tensorrt", "10.3.0")
    assert api.kind("IBuilderConfig", "progress_monitor") == "IProgressMonitor"
    assert api.settable("IBuilderConfig", "progress_monitor")
    assert not api.settable("ICudaEngine", "num_layers")
    assert api.enum("DataType")["UINT8"] == 5
    assert api.member("ILogger", "Severity") == "class ILogger.Severity"
    assert api.has("Logger", "log"), "inherited from ILogger"
    assert api.has("IShuffleLayer", "get_output"), "inherited from ILayer"
    assert api.has(MODULE, "volume")
    assert api.has(MODULE, "float16")
    assert not api.has(MODULE, "FLOAT16")


def test_what_eleven_removed_is_told_apart() -> None:
    ten, eleven = recorded("tensorrt", "10.3.0"), recorded("tensorrt", "11.4.0")
    assert ten.has("BuilderFlag", "FP16")
    assert not eleven.has("BuilderFlag", "FP16")
    assert eleven.has("BuilderFlag", "TF32")


@pytest.mark.parametrize(
    ("positional", "keywords", "fits"),
    [
        (1, (), True),
        (1, ("path",), True),
        (0, ("model",), True),
        (0, (), False),
        (3, (), False),
        (1, ("model",), False),
        (1, ("file",), False),
    ],
)
def test_calls_are_held_against_a_signature(
    positional: int, keywords: tuple[str, ...], fits: bool
) -> None:
    assert Signature(("model", "path"), 1, "bool").takes(positional, keywords) is fits


def test_a_version_that_was_not_recorded_is_named() -> None:
    with pytest.raises(KeyError, match=r"no recording of tensorrt 9\.0\.0: there are .*11\.4\.0"):
        recorded("tensorrt", "9.0.0")


def test_versions_are_in_order() -> None:
    assert [api.version for api in recordings("tensorrt")] == ["10.3.0", "10.16.1", "11.4.0"]
    assert all(isinstance(api, Api) and api.classes for api in recordings("cuda_bindings"))
