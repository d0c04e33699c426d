"""`vit-edge inspect --layers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.backends import BACKENDS, cuda
from runtime.backends.tensorrt import TensorRT
from runtime.backends.tensorrt_layers import Layers, parse_layers

from .backends.inspected import ASKED, TEN

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


class TestCommand:
    @pytest.fixture
    def device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TensorRT for RTX on a device that is there, with an engine that it describes as `TEN`."""
        monkeypatch.setattr(cuda, "device_problem", lambda: None)
        monkeypatch.setattr(cuda, "device_name", lambda: "Some GPU (8.9)")
        monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
        layers = Layers(parse_layers(json.dumps(TEN)), ASKED)
        monkeypatch.setattr(TensorRT, "layers", lambda self, *arguments: layers)

    @needs_rtx
    def test_a_table_and_what_became_of_the_products(
        self, device: None, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--layers", "--backend", "tensorrt-rtx", "--precision", "int8"]
        assert main(["inspect", str(bundle_source), *arguments]) == 0
        out = capsys.readouterr().out
        assert "int8 on tensorrt-rtx" in out
        assert "4 layers: fp16 50 %, fp32 25 %, int8 25 %" in out
        assert "3 of 5 matrix products run as the graph asks" in out
        assert "proj/MatMul: asked int8, runs in fp16" in out

    @needs_rtx
    def test_json_has_a_row_for_each_engine(
        self, device: None, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--layers", "--backend", "tensorrt-rtx", "--json"]
        assert main(["inspect", str(bundle_source), *arguments]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert {row["engine"] for row in rows} == {
            f"{p} on tensorrt-rtx" for p in ("fp32", "fp16", "int8")
        }
        assert rows[0]["products"][0] == {"node": "qkv/MatMul", "asked": "int8", "runs": "int8"}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--layers", "--backend", "onnxruntime"), "has no layers to tell of: TensorRT does"),
            (("--layers", "--precision", "fp7"), "no precision 'fp7'"),
            (("--precision", "fp16"), "go with --layers"),
        ],
    )
    def test_a_wrong_wish_is_one_line(
        self,
        bundle_source: Path,
        arguments: tuple[str, ...],
        says: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["inspect", str(bundle_source), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line

    def test_without_a_gpu_what_is_missing_is_said(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if RTX.run_problem() is None:
            pytest.skip("there is a GPU here")
        assert main(["inspect", str(bundle_source), "--layers"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no layers to show here: tensorrt: " in line
        assert "tensorrt-rtx: " in line
