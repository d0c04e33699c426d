"""Model repositories: what is in them is what the bundle proves, and nothing of others is lost."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.cli import main

from .bundles import DIGITS, with_labels, with_tensorrt

text_format = pytest.importorskip("google.protobuf.text_format")
model_config = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="the extra `triton` is not installed"
)


def write(bundle: Path, out: Path, *options: str) -> int:
    return main(["triton", str(bundle), str(out), "-q", *options])


def read_config(out: Path, model: str = "vit_digits") -> Any:
    return text_format.Parse((out / model / "config.pbtxt").read_text(), model_config.ModelConfig())


def told(config: Any) -> dict[str, str]:
    return {
        name.removeprefix("vit_edge."): value.string_value
        for name, value in config.parameters.items()
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_configuration_says_what_the_manifest_says(bundle_source: Path, tmp_path: Path) -> None:
    assert write(bundle_source, tmp_path / "models", "--precision", "int8") == 0
    config, bundle = read_config(tmp_path / "models"), Bundle.open(bundle_source)
    spec = bundle.manifest.spec
    assert (config.name, config.backend) == ("vit_digits", "python")
    assert [(i.name, i.data_type, tuple(i.dims)) for i in config.input] == [
        (spec.input_name, model_config.TYPE_UINT8, spec.image_shape)
    ]
    assert [(o.name, o.data_type, tuple(o.dims)) for o in config.output] == [
        ("logits", model_config.TYPE_FP32, (10,))
    ]
    assert config.max_batch_size == spec.max_batch
    assert list(config.dynamic_batching.preferred_batch_size) == sorted(set(spec.batch[1:]))
    assert [(g.count, g.kind) for g in config.instance_group] == [
        (1, model_config.ModelInstanceGroup.KIND_CPU)
    ]
    facts = told(config)
    assert facts["bundle_sha256"] == bundle.digest
    assert facts["precision"] == "int8"
    logits = json.loads(facts["outputs"])["logits"]
    assert logits["kind"] == "logits"
    graphs = bundle.manifest.precisions["int8"].graphs
    assert logits["rms_tolerance"] == {
        "int8": {kind: graph.rms_tolerance["logits"] for kind, graph in graphs.items()}
    }
    golden = tmp_path / "models" / "vit_digits" / facts["golden"]
    assert sha256(golden) == bundle.manifest.files["golden.npz"].sha256
    assert json.loads(facts["preprocess"])["interpolation"] == "box"


def test_the_python_model_has_a_whole_bundle_beside_it(bundle_source: Path, tmp_path: Path) -> None:
    assert write(bundle_source, tmp_path / "models") == 0
    version = tmp_path / "models" / "vit_digits" / "1"
    copy = Bundle.open(version / "bundle")
    copy.verify()
    assert copy.digest == Bundle.open(bundle_source).digest
    facts = told(read_config(tmp_path / "models"))
    assert facts["file_sha256"] == sha256(version / "model.py")
    assert "precision" not in facts


@pytest.mark.parametrize(
    ("target", "backend", "kind", "gpu"),
    [
        ("onnxruntime", "onnxruntime", "cpu", False),
        ("onnxruntime-cuda", "onnxruntime", "gpu", True),
        ("onnxruntime-tensorrt", "onnxruntime", "gpu", True),
        ("openvino", "openvino", "cpu", False),
    ],
)
def test_a_graph_is_the_one_that_was_proven(
    bundle_source: Path, tmp_path: Path, target: str, backend: str, kind: str, gpu: bool
) -> None:
    out = tmp_path / "models"
    assert write(bundle_source, out, "--backend", target, "--precision", "int8") == 0
    config, manifest = read_config(out), Bundle.open(bundle_source).manifest
    graph = manifest.precisions["int8"].graphs[kind]
    assert (config.backend, config.default_model_filename) == (backend, "model.onnx")
    assert sha256(out / "vit_digits" / "1" / "model.onnx") == manifest.files[graph.file].sha256
    assert told(config)["file_sha256"] == manifest.files[graph.file].sha256
    assert told(config)["graph"] == kind
    group = model_config.ModelInstanceGroup
    assert config.instance_group[0].kind == (group.KIND_GPU if gpu else group.KIND_CPU)
    tolerance = json.loads(told(config)["outputs"])["logits"]["rms_tolerance"]
    assert tolerance == {"int8": {kind: graph.rms_tolerance["logits"]}}
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    modes = [(a.name, a.parameters["precision_mode"]) for a in accelerators]
    assert modes == ([("tensorrt", "INT8")] if target == "onnxruntime-tensorrt" else [])


def test_an_engine_is_the_one_for_the_gpu_that_is_named(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_tensorrt(bundle_source, tmp_path / "b", {"8.9": b"plan 89", "9.0": b"plan 90"})
    out, chosen = tmp_path / "models", ("--backend", "tensorrt")
    assert write(bundle.path, out, *chosen) == 2
    assert "8.9 (TensorRT 10.9.0); 9.0 (TensorRT 10.9.0)" in capsys.readouterr().err
    assert write(bundle.path, out, *chosen, "--compute-capability", "7.5") == 2
    assert "no TensorRT engine" in capsys.readouterr().err
    assert write(bundle.path, out, *chosen, "--compute-capability", "9.0") == 0
    assert (out / "vit_digits" / "1" / "model.plan").read_bytes() == b"plan 90"
    config = read_config(out)
    assert (config.backend, told(config)["precision"]) == ("tensorrt", "fp16")


def test_without_an_engine_the_message_says_what_to_do(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(bundle_source, tmp_path / "models", "--backend", "tensorrt") == 2
    error = capsys.readouterr().err
    assert "--target tensorrt" in error
    assert "--backend onnxruntime-tensorrt" in error
    assert not (tmp_path / "models").exists()


def test_names_of_classes_and_warm_ups_come_along(bundle_source: Path, tmp_path: Path) -> None:
    bundle = with_labels(bundle_source, tmp_path / "labelled")
    out = tmp_path / "models"
    assert write(bundle.path, out, "--batch", "2", "3", "--decode") == 0
    golden = bundle.golden().images
    for model in ("vit_digits", "vit_digits_images"):
        config = read_config(out, model)
        labels = (out / model / config.output[0].label_filename).read_text()
        assert labels.splitlines() == list(DIGITS)
    config = read_config(out)
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2, 3]
    for warmup in config.model_warmup:
        frames = warmup.inputs["images"]
        data = (out / "vit_digits" / "warmup" / frames.input_data_file).read_bytes()
        assert np.array_equal(
            np.frombuffer(data, np.uint8).reshape(-1, *frames.dims), golden[: warmup.batch_size]
        )


def test_image_files_go_through_a_step_to_the_same_model(
    bundle_source: Path, tmp_path: Path
) -> None:
    assert write(bundle_source, tmp_path / "models", "--name", "digits", "--decode") == 0
    ensemble = read_config(tmp_path / "models", "digits_images")
    step = read_config(tmp_path / "models", "digits_decode")
    assert ensemble.platform == "ensemble"
    assert [s.model_name for s in ensemble.ensemble_scheduling.step] == ["digits_decode", "digits"]
    assert ensemble.input[0].data_type == step.input[0].data_type == model_config.TYPE_STRING
    assert [(o.name, tuple(o.dims)) for o in step.output] == [("images", (8, 8, 1))]


def test_what_others_put_there_stays(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    assert write(bundle_source, precious) == 2
    assert "other things" in capsys.readouterr().err
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    ours = tmp_path / "models"
    assert write(bundle_source, ours) == 0
    assert write(bundle_source, ours, "--name", "digits", "--precision", "fp32") == 0
    assert sorted(p.name for p in ours.iterdir()) == ["digits", "vit-edge.json"]
    (ours / "digits" / "1" / "__pycache__").mkdir()  # as the server leaves it
    (ours / "digits" / "1" / "__pycache__" / "model.pyc").touch()
    assert write(bundle_source, ours, "--precision", "fp32") == 0
    config = ours / "vit_digits" / "config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    assert write(bundle_source, ours) == 2
    assert "edited" in capsys.readouterr().err
    assert config.read_text().endswith("# mine\n")
    assert not list(tmp_path.glob(".models*"))


@pytest.mark.parametrize("theirs", ["link", "folder", "cache", "in a cache"])
def test_what_is_no_file_stays_too(
    bundle_source: Path, tmp_path: Path, theirs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "models"
    assert write(bundle_source, ours, "--precision", "fp32", "--decode") == 0
    place = {
        "link": ours / "other",
        "folder": ours / "other" / "1",
        "cache": ours / "other" / "__pycache__",
        "in a cache": ours / "vit_digits" / "1" / "__pycache__" / "notes.txt",
    }[theirs]
    place.parent.mkdir(parents=True, exist_ok=True)
    if theirs == "link":
        place.symlink_to(bundle_source)
    elif theirs == "in a cache":
        place.touch()
    else:
        place.mkdir()
    assert write(bundle_source, ours, "--precision", "fp32") == 2
    assert "which vit-edge did not write" in capsys.readouterr().err
    assert place.exists()


def test_folders_beside_it_that_look_like_ours_stay(bundle_source: Path, tmp_path: Path) -> None:
    aside, used = tmp_path / ".models.previous", tmp_path / ".models.new-0a1b2c3d"
    left = tmp_path / ".models.new-killed12"
    for folder in (aside, used, left):
        folder.mkdir()
        (folder / "file").touch()
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # another process is writing there
    assert write(bundle_source, tmp_path / "models", "--precision", "fp32") == 0
    os.close(descriptor)
    assert (aside / "file").exists()
    assert (used / "file").exists()
    assert not left.exists()


def test_the_current_folder_may_be_the_repository(
    bundle_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    assert write(bundle_source, Path(), "--precision", "fp32") == 0
    assert (tmp_path / "models" / "vit-edge.json").exists()


def test_a_damaged_bundle_is_not_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bundle / "onnx" / "fp32.onnx"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    assert write(bundle, tmp_path / "models") == 2
    assert "was altered" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int3"], "no precision 'int3'"),
        (["--name", "a/b"], "--name"),
        (["--batch", "99"], "the engines take 1 to 4"),
        (["--name", "vit-edge.json"], "--name"),
        (["--instances", "0"], "--instances 0"),
        (["--instances", "99999999999"], "--instances 99999999999: give 1 to"),
        (["--backend", "openvino", "--threads", "2"], "--threads 2"),
        (["--compute-capability", "8.9"], "--compute-capability 8.9"),
    ],
)
def test_bad_options_are_one_clear_error(
    bundle_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert write(bundle_source, tmp_path / "models", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_place_that_cannot_be_written_is_one_clear_error(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(bundle_source, tmp_path / ("n" * 255)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written (File name too long): choose another place" in line


def test_without_the_extra_the_message_names_it(
    bundle_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    assert write(bundle_source, tmp_path / "models") == 2
    assert "pip install 'tritonclient[grpc,http]" in capsys.readouterr().err
    url = ["--url", "grpc://localhost:1/m"]
    assert main(["replay", str(bundle_source), *url]) == 2
    assert "pip install 'tritonclient[grpc,http]" in capsys.readouterr().err


def test_the_command_line_alone_imports_no_client() -> None:
    code = (
        "import sys\nfrom vit_edge.runtime.tools.cli import build_parser\nbuild_parser()\n"
        "assert not {'tritonclient', 'google.protobuf', 'grpc', 'gevent'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_link_is_no_place_for_a_repository(bundle_source: Path, tmp_path: Path) -> None:
    from vit_edge.runtime.tools.triton.repository import require_own

    (tmp_path / "link").symlink_to(bundle_source)
    with pytest.raises(InputError, match="not a folder"):
        require_own(tmp_path / "link")
